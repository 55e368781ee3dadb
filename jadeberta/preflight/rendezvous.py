"""How the ranks of a preflight meet and work together without waiting for one that cannot: over a key-value store of rank 0.

The store needs no process group, so that a rank that is missing or falls silent costs its own results and no one else's.
"""

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import orjson
import torch
import torch.distributed as dist

from jadeberta.cluster.environment import Process
from jadeberta.errors import ConfigError, HangError
from jadeberta.preflight.results import Findings
from jadeberta.preflight.timeouts import Watch

Plan = dict[str, Any]


class Dropped(Exception):
    """Rank 0 goes on without this rank."""


class Meeting:
    """The ranks that have met. Rank 0 says what is done next and gathers what came of it."""

    def __init__(self, process: Process, patience: float, watch: Watch) -> None:
        """Goes to the meeting place.

        Raises:
            HangError: rank 0 cannot be reached within `patience` seconds.
            ConfigError: the port is taken.
        """
        self.process, self.patience, self.watch = process, patience, watch
        self.roster = list(range(process.world_size))
        """Ranks that take part."""
        self.lost: dict[int, str] = {}
        """On rank 0, ranks that fell silent, and at what."""
        self.store = dist.PrefixStore("jadeberta-preflight", _store(process, patience))

    def gather_findings(self, own: Findings) -> dict[int, Findings]:
        """On rank 0 the findings of every rank that came within the patience, by rank; on others nothing."""
        self.put(f"here/{self.process.rank}", orjson.dumps(own).decode())
        if not self.process.is_root:
            return {}
        told = self._collect("here", self.roster, self.patience)
        self.roster = sorted(told)
        return {rank: Findings.of(plain) for rank, plain in told.items()}

    def together(self, name: str, plan: Plan, work: Callable[[Plan], Any], seconds: float) -> dict[int, Any]:
        """Has every rank of the roster do something at the same time; what fails in a rank is its result {"error": sentence}.

        Args:
            name: of what is done; not twice the same.
            plan: of rank 0, for all; other ranks' is not looked at.
            work: given rank 0's plan; returns what JSON can hold.
            seconds: that rank 0 waits for the others once it is done; who is silent then is lost.

        Returns:
            On rank 0, results by rank; on others nothing.

        Raises:
            Dropped: this rank is not of the roster any more.
        """
        self.watch.at = name
        if self.process.is_root:
            self.put(f"plan/{name}", orjson.dumps(plan | {"roster": self.roster}).decode())
        plan = orjson.loads(self.wait_for(f"plan/{name}", self.watch.left))
        self.roster = plan["roster"]
        if self.process.rank not in self.roster:
            raise Dropped
        try:
            result = work(plan)
        except (RuntimeError, OSError, HangError) as e:  # the first is torch's
            result = {"error": next(iter(str(e).splitlines()), type(e).__name__)}
        self.put(f"{name}/{self.process.rank}", orjson.dumps(result).decode())
        if not self.process.is_root:
            return {}
        results = self._collect(name, self.roster, seconds)
        self.lost |= {rank: name for rank in self.roster if rank not in results}
        self.roster = sorted(results)
        return results

    def put(self, key: str, value: str) -> None:
        self.store.set(key, value)

    def wait_for(self, key: str, seconds: float) -> str:
        """What another rank puts under a key. Raises torch's DistError where it is not there within some seconds."""
        self.store.wait([key], timedelta(seconds=max(0.01, seconds)))
        return self.store.get(key).decode()

    @contextmanager
    def group(self, name: str, members: list[int], device: torch.device, seconds: float) -> Iterator[None]:
        """The default process group among some ranks, over NCCL on GPUs and gloo on CPUs.

        Raises RuntimeErrors of torch where they cannot connect, or a collective takes longer than some seconds.
        """
        # A collective over NCCL that takes too long shall be an error of the one who waits, not the end of the process.
        os.environ["TORCH_NCCL_BLOCKING_WAIT"] = "1"
        backend = "nccl" if device.type == "cuda" else "gloo"
        place = members.index(self.process.rank)
        dist.init_process_group(
            backend,
            store=dist.PrefixStore(name, self.store),
            rank=place,
            world_size=len(members),
            timeout=timedelta(seconds=seconds),
            device_id=device if device.type == "cuda" else None,
        )
        try:
            yield
        finally:
            dist.destroy_process_group()

    def close(self, seconds: float) -> None:
        """Rank 0 keeps the store until the others have read it, or some seconds have passed."""
        self.put(f"bye/{self.process.rank}", "")
        if self.process.is_root:
            self._collect("bye", self.roster, seconds, read=False)

    def _collect(self, name: str, ranks: list[int], seconds: float, read: bool = True) -> dict[int, Any]:
        """What ranks have put under NAME/rank; waits for all of them together."""
        deadline = time.monotonic() + seconds
        found = {}
        for rank in ranks:
            key = f"{name}/{rank}"
            try:
                self.store.wait([key], timedelta(seconds=max(0.01, deadline - time.monotonic())))
                found[rank] = orjson.loads(self.store.get(key)) if read else None
            except dist.DistStoreError:
                continue
        return found


def _store(process: Process, patience: float) -> dist.Store:
    """The store that rank 0 serves, or torchrun's own, which is there already."""
    if process.world_size == 1:
        return dist.HashStore()
    of_torchrun = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    serves = process.is_root and not of_torchrun
    try:
        store = dist.TCPStore(
            process.master_addr,
            process.master_port,
            None,
            serves,
            timeout=timedelta(seconds=patience),
            wait_for_workers=False,
        )
    except dist.DistError as e:
        where = f"{process.master_addr}:{process.master_port}"
        if serves:
            raise ConfigError(
                f"rank 0 cannot listen at {where} ({next(iter(str(e).splitlines()))}). Free the port or set MASTER_PORT."
            ) from e
        raise HangError(f"did not reach rank 0 at {where} within {patience:.0f} s") from e
    if of_torchrun:
        return dist.PrefixStore(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"), store)
    return store
