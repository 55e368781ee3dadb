"""Batches take no descriptors and no shared memory, and a wait for one ends with it or with its cause."""

import ctypes
import errno
import os
import resource
import signal
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import Dataset

from jadeberta.data import loader_processes
from jadeberta.data.batches import StepDataset, iterate_steps
from jadeberta.data.loader_processes import LoaderState, explain_death, items_ahead, require_on_its_way
from jadeberta.data.masking import Masker
from jadeberta.data.sample_order import SampleOrder
from jadeberta.errors import ResourceError, is_retryable
from jadeberta.shards import ShardReader, open_files, open_shards
from tests.helpers import children_of, make_shards

SEQUENCES, WORKERS, PREFETCH = 2304, 2, 4
"""Of the published run: rows of a step, and the loader processes of its recipe."""


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> ShardReader:
    return open_shards(make_shards(tmp_path_factory.mktemp("shards"), {f"web{n}": (40, 1) for n in range(4)}, length=16))


def children() -> list[int]:
    return children_of("self")


def resources(pid: int) -> tuple[int, int]:
    """Open descriptors and maps of torch's shared memory of a process."""
    descriptors = len(list(Path(f"/proc/{pid}/fd").iterdir()))
    return descriptors, Path(f"/proc/{pid}/maps").read_text().count("/dev/shm/torch_")


@pytest.mark.parametrize("by_document", [False, True], ids=["concat", "documents"])
@pytest.mark.parametrize("micro_batch_size", [18, 4])
@pytest.mark.parametrize("world_size", [1, 8])
def test_descriptors_do_not_grow_with_the_micro_batches(reader, world_size, micro_batch_size, by_document) -> None:
    order = SampleOrder.of(3, SEQUENCES, reader.corpora, dict.fromkeys(reader.corpora, 1))
    dataset = StepDataset(reader, order, Masker(1, 64), micro_batch_size, 0, world_size, by_document)
    before = resources(os.getpid())[0]
    others, kept, steps = children(), [], iterate_steps(dataset, 0, 12, WORKERS, PREFETCH)
    for _ in range(3):
        kept.append(next(steps))
    loaders = sorted(set(children()) - set(others))
    assert len(loaders) == WORKERS and len(kept[0].micro_batches) == SEQUENCES // world_size // micro_batch_size
    for pid in (os.getpid(), *loaders):
        descriptors, maps = resources(pid)
        assert descriptors - before <= 40 and maps == 0
    steps.close()  # type: ignore[attr-defined]


class Items(Dataset):
    """What a data set may give."""

    def __getitem__(self, step: int) -> object:
        if step == 2:
            return lambda: None  # cannot be sent
        if step == 5:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        if step == 6:
            raise MemoryError
        if step == 7:
            os.kill(os.getpid(), signal.SIGKILL)
        if step == 8:
            time.sleep(600)
        return [step, np.full(100_000, step)]


def test_arrays_come_as_they_are_and_leave_no_directory_behind(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    assert [(step, type(array), array[-1]) for step, array in items_ahead(Items(), range(10, 13), 2, 2)] == [
        (step, np.ndarray, step) for step in range(10, 13)
    ]
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def short_looks(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(loader_processes, "LOOK_S", 0.1)
    yield


@pytest.mark.usefixtures("short_looks")
@pytest.mark.parametrize("first", [2, 1])
def test_an_item_that_cannot_be_sent_ends_the_wait_with_the_reason(first: int) -> None:
    items = items_ahead(Items(), range(first, 5), 2, 2)
    with pytest.raises(ResourceError, match=r"^step 3: loader process \d+ could not hand over the data of a step: .*pickle"):
        list(items)
    assert is_retryable(ResourceError.exit_status)


@pytest.mark.parametrize(("step", "what"), [(5, "no file descriptor left"), (6, "no memory left")])
def test_a_shortage_in_a_loader_process_is_an_error_of_the_run(step: int, what: str) -> None:
    with pytest.raises(ResourceError, match=rf"^step {step + 1}: its data cannot be made: this .*{what}"):
        list(items_ahead(Items(), range(step, step + 1), 1, 2))


def test_a_loader_process_that_is_killed_is_named_with_what_to_look_at() -> None:
    with pytest.raises(Exception, match=r"DataLoader worker .*(killed|exited).*") as raised:
        list(items_ahead(Items(), range(7, 8), 1, 2))
    error = raised.value if not isinstance(raised.value, RuntimeError) else explain_death(raised.value)
    assert str(error).endswith("Where it was killed, look for the memory of the host.") and "shared memory" not in str(error)


def test_a_bus_error_points_to_the_storage_and_other_errors_are_not_taken_for_it() -> None:
    bus = "DataLoader worker (pid 3) is killed by signal: Bus error. It is possible that dataloader's workers are out of shared memory."
    assert str(explain_death(RuntimeError(bus))).startswith(
        "DataLoader worker (pid 3) is killed by signal: Bus error. The storage"
    )
    assert explain_death(RuntimeError("CUDA error")) is None and explain_death(RuntimeError()) is None


def state(step: int, is_working: bool, fault: str = "") -> LoaderState:
    return LoaderState(77, step, is_working, time.monotonic(), fault)


def test_a_wait_goes_on_while_a_process_works_and_ends_where_none_does() -> None:
    require_on_its_way([state(4, True), state(5, False)], 4, 1e6)
    require_on_its_way([state(4, False)], 4, loader_processes.LOST_S / 2)
    with pytest.raises(
        ResourceError, match=r"step 5: its data did not come within 90 s: loader process 77 has handed over step 5"
    ):
        require_on_its_way([state(4, False)], 4, 90)
    with pytest.raises(ResourceError, match="no loader process has begun"):
        require_on_its_way([], 4, 90)


def test_closing_ends_a_process_that_is_stuck() -> None:
    others, items = children(), items_ahead(Items(), range(9, 7, -1), 1, 2)
    assert next(items)[0] == 9
    (stuck,) = set(children()) - set(others)
    began = time.monotonic()
    items.close()  # type: ignore[attr-defined]
    del items
    assert time.monotonic() - began < 4 and stuck not in children()


def test_a_run_of_documents_lives_with_few_descriptors(reader, monkeypatch) -> None:
    """As many as a loader and its pipes need, and four for tars; each batch has 576 micro-batches."""
    monkeypatch.setattr(open_files, "RETRY_PAUSES_S", (0.0,))
    order = SampleOrder.of(3, SEQUENCES, reader.corpora, dict.fromkeys(reader.corpora, 1))
    dataset = StepDataset(reader, order, Masker(1, 64), 4, 0, 1, by_document=True)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    used = max(int(path.name) for path in Path("/proc/self/fd").iterdir())
    resource.setrlimit(resource.RLIMIT_NOFILE, (used + 40, hard))
    try:
        kept = list(iterate_steps(dataset, 0, 4, WORKERS, PREFETCH))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert [len(batch.micro_batches) for batch in kept] == [576] * 4


def with_small_shared_memory(size: int) -> str:
    """Gives this process a /dev/shm of its own; returns why that cannot be, or nothing."""
    libc = ctypes.CDLL(None, use_errno=True)
    clone_newns, clone_newuser = 0x00020000, 0x10000000
    if libc.unshare(clone_newns | (clone_newuser if os.geteuid() else 0)):
        return f"unshare: {os.strerror(ctypes.get_errno())}"
    private_recursive = 0x44000
    if libc.mount(None, b"/", None, private_recursive, None) or libc.mount(
        b"tmpfs", b"/dev/shm", b"tmpfs", 0, f"size={size}".encode()
    ):
        return f"mount: {os.strerror(ctypes.get_errno())}"
    return ""


def test_a_shared_memory_smaller_than_one_batch_is_enough(reader) -> None:
    reading, writing = os.pipe()
    if not (child := os.fork()):
        answer = b"skip: "
        try:
            torch.set_num_threads(1)
            reason = with_small_shared_memory(65536)
            answer += reason.encode()
            if not reason:
                order = SampleOrder.of(3, SEQUENCES, reader.corpora, dict.fromkeys(reader.corpora, 1))
                dataset = StepDataset(reader, order, Masker(1, 64), 18, 0, 1, by_document=True)
                kept = list(iterate_steps(dataset, 0, 4, WORKERS, PREFETCH))
                bytes_kept = sum(m.input_ids.nbytes for m in kept[0].micro_batches)
                answer = f"{len(kept)} steps, {bytes_kept > 4 * os.statvfs('/dev/shm').f_blocks * os.statvfs('/dev/shm').f_frsize}".encode()
        except BaseException as e:
            answer = repr(e).encode()
        finally:
            os.write(writing, answer)
            os._exit(0)
    os.close(writing)
    answer = os.read(reading, 4096).decode()
    os.close(reading)
    os.waitpid(child, 0)
    if answer.startswith("skip: "):
        pytest.skip(f"a /dev/shm of its own cannot be had ({answer.removeprefix('skip: ')})")
    assert answer == "4 steps, True"
