"""Processes that prepare items ahead of the training, and a watch over them: a wait for an item ends with it, or with an error.

Items must be of plain values and numpy arrays: they come through a pipe, and take neither descriptors nor shared memory. A tensor would
take a descriptor and a file in /dev/shm for as long as it lives, and a directory /tmp/pymp-* that stays behind.
"""

import contextlib
import logging
import mmap
import multiprocessing
import os
import signal
import struct
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing import queues
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset, get_worker_info

from jadeberta.errors import HangError, JadebertaError, ResourceError
from jadeberta.utils.processes import end_with_parent
from jadeberta.utils.resources import describe_shortage

logger = logging.getLogger(__name__)

LOOK_S = 5.0
"""Seconds of waiting after which the loader processes are looked at, again and again."""
LOST_S = 60.0
"""Seconds of waiting, while no loader process is at work, after which an item is lost: only a pipe lies between them and the training."""


@dataclass(frozen=True)
class LoaderState:
    """What a loader process last did."""

    pid: int
    step: int
    """Step that it works at or has handed over last."""
    is_working: bool
    since: float
    """time.monotonic() of the begin of that."""
    fault: str
    """Why its last item could not be sent; empty where it could."""


class LoaderBoard:
    """The states of all loader processes, in memory that is shared with the processes forked from here."""

    _HEAD = struct.Struct("<qqqdq")
    _SLOT = 1024

    def __init__(self, workers: int) -> None:
        self._workers, self._lock = workers, threading.Lock()
        self._memory = mmap.mmap(-1, (workers + 1) * self._SLOT)  # the last slot says whether the processes shall end

    @property
    def is_closing(self) -> bool:
        """Whether the items are not wanted any more."""
        return self._memory[self._workers * self._SLOT] != 0

    def close(self) -> None:
        """Ends the processes that have begun, whatever they wait for."""
        self._memory[self._workers * self._SLOT] = 1
        for state in self.read():
            with contextlib.suppress(ProcessLookupError):
                os.kill(state.pid, signal.SIGTERM)

    def write(self, worker: int, step: int, is_working: bool, fault: str = "") -> None:
        """Records what this process does; `worker` is its number. A fault stays: the process may be at its next items by then."""
        start = worker * self._SLOT
        with self._lock:  # a fault is written by the thread that sends
            if not fault and self._HEAD.unpack_from(self._memory, start)[-1]:
                return
            text = fault.encode()[: self._SLOT - self._HEAD.size]
            head = self._HEAD.pack(os.getpid(), step, is_working, time.monotonic(), len(text))
            self._memory[start : start + len(head) + len(text)] = head + text

    def read(self) -> list[LoaderState]:
        """The states of the processes that have begun."""
        states = []
        for start in range(0, self._workers * self._SLOT, self._SLOT):
            pid, step, is_working, since, length = self._HEAD.unpack_from(self._memory, start)
            text = self._memory[start + self._HEAD.size : start + self._HEAD.size + length].decode(errors="replace")
            if pid:
                states.append(LoaderState(pid, step, bool(is_working), since, text))
        return states


class _Reported(Dataset):
    """The items of a data set; the board tells of each what becomes of it, and errors are items too."""

    def __init__(self, dataset: Dataset, board: LoaderBoard) -> None:
        self.dataset, self.board = dataset, board

    def __getitem__(self, step: int) -> Any:
        info = get_worker_info()
        assert info is not None
        self.board.write(info.id, step, True)
        try:
            item = make_item(self.dataset, step)
        except JadebertaError as e:
            item = e  # raised here, torch would bury it in a traceback of its own
        self.board.write(info.id, step, False)
        return item


def make_item(dataset: Dataset, step: int) -> Any:
    """Returns the item of a step.

    Raises:
        JadebertaError: that of the data set; a ResourceError where the process or its host lacks something.
    """
    try:
        return dataset[step]
    except (OSError, MemoryError) as e:
        raise ResourceError(f"step {step + 1}: its data cannot be made: {describe_shortage(e)}.") from e


def items_ahead(dataset: Dataset, steps: range, workers: int, prefetch: int) -> Iterator[Any]:
    """Yields dataset[step] for all steps in order, made by loader processes.

    Args:
        dataset: the processes get it by fork.
        steps: in the order of their use.
        workers: number of processes, at least 1.
        prefetch: items that each process works ahead.

    Raises:
        JadebertaError: what making an item raised.
        ResourceError: a process cannot be started, or an item cannot be sent or received, or was lost on its way.
        RuntimeError: a process died; torch raises this at any point of the training. `explain_death` makes an error of it.
    """
    board = LoaderBoard(workers)
    loader = DataLoader(
        _Reported(dataset, board),
        # An item is the batch of a whole step; torch must not join several of them.
        batch_size=None,
        sampler=steps,
        num_workers=workers,
        prefetch_factor=prefetch,
        collate_fn=_unchanged,
        worker_init_fn=_Start(board),
        persistent_workers=False,
        timeout=LOOK_S,
        multiprocessing_context="fork",
    )
    try:
        items = iter(loader)
    except OSError as e:
        raise ResourceError(f"the loader processes cannot be started: {describe_shortage(e)}.") from e
    try:
        for step in steps:
            yield _wait_for(items, step, board)
    finally:
        # Before torch ends them: it would wait five seconds for each that is stuck, and for ever at the end of the program.
        board.close()


def _unchanged(item: Any) -> Any:
    """Torch's own function would make tensors of the arrays in a dict, list or tuple."""
    return item


def _wait_for(items: Iterator[Any], step: int, board: LoaderBoard) -> Any:
    began = said = time.monotonic()
    while True:
        try:
            item = next(items)
        except RuntimeError as e:
            if not str(e).startswith("DataLoader timed out"):
                raise explain_death(e) or e from None
        except (OSError, MemoryError, EOFError) as e:
            raise ResourceError(f"step {step + 1}: its data cannot be received: {describe_shortage(e)}.") from e
        else:
            if isinstance(item, JadebertaError):
                raise item
            return item
        states = board.read()
        require_on_its_way(states, step, time.monotonic() - began)
        if time.monotonic() - said >= LOST_S:
            said = time.monotonic()
            logger.warning("step %s waits for its data for %.0f s: %s", step + 1, said - began, _in_words(states))


def require_on_its_way(states: list[LoaderState], step: int, waited_s: float) -> None:
    """Raises ResourceError where the item of a step will not come: it could not be sent, or no process works and it did not arrive.

    A process that is at work is left to the watchdog: it reads, and the storage is slow.
    """
    for state in states:
        if state.fault:
            raise ResourceError(
                f"step {step + 1}: loader process {state.pid} could not hand over the data of a step: {state.fault}."
            )
    if waited_s >= LOST_S and not any(state.is_working for state in states):
        raise ResourceError(
            f"step {step + 1}: its data did not come within {waited_s:.0f} s: {_in_words(states)}. "
            "Start again; look at the memory of the host."
        )


def explain_death(error: RuntimeError) -> HangError | None:
    """The error of a run whose loader process died, from what torch raises in the training process; None where it is another error."""
    reason = next(iter(str(error).splitlines()), "")
    if not reason.startswith("DataLoader worker"):
        return None
    # Torch guesses at shared memory, which the items do not use.
    reason = reason.partition(". ")[0].rstrip(".")
    remedy = "Where it was killed, look for the memory of the host."
    if "Bus error" in reason:
        remedy = "The storage could not give back a part of a file of checksums (.sums) any more; look at it."
    return HangError(f"{reason}. {remedy}")


def _in_words(states: list[LoaderState]) -> str:
    now, parts = time.monotonic(), []
    for s in states:
        did = "has begun" if s.step < 0 else f"{'has worked at' if s.is_working else 'has handed over'} step {s.step + 1}"
        parts.append(f"loader process {s.pid} {did} {'for' if s.is_working else 'and waited for'} {now - s.since:.0f} s")
    return "; ".join(parts) or "no loader process has begun"


class _Start:
    """Prepares a loader process; called in it with its number."""

    def __init__(self, board: LoaderBoard) -> None:
        self.board = board

    def __call__(self, worker: int) -> None:
        trainer = multiprocessing.parent_process()
        assert trainer is not None and trainer.pid is not None
        end_with_parent(trainer.pid)
        # A signal to the whole process group is the training process's to answer; a loader that died of it would fail the step.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, lambda *_: os._exit(0) if self.board.is_closing else None)
        signal.signal(signal.SIGUSR1, signal.SIG_IGN)
        torch.set_num_threads(1)
        self.board.write(worker, -1, False)

        def report(error: Exception, item: Any) -> None:  # `item` may be bytes by now, which tell no step
            # The thread that sends an item drops it at an error and goes on; the training would wait for it for ever.
            reason = describe_shortage(error) if isinstance(error, OSError | MemoryError) else f"{type(error).__name__}: {error}"
            self.board.write(worker, -1, False, " ".join(reason.split()))

        queues.Queue._on_queue_feeder_error = staticmethod(report)  # type: ignore[attr-defined,method-assign]
