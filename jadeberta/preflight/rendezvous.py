"""Rendezvous and communication of the ranks of a preflight, over a key-value store (torch's TCPStore) of rank 0.

The store needs no process group, so a rank that is missing or stops answering loses only its own results.
"""

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import orjson
import torch
import torch.distributed as dist

from jadeberta.cluster.environment import Process
from jadeberta.cluster.run_store import RunIdentity, open_store
from jadeberta.errors import HangError
from jadeberta.preflight.results import LocalResults
from jadeberta.preflight.timeouts import Deadline

Plan = dict[str, Any]
"""What rank 0 sends to all ranks before a measurement; plain JSON."""


class DroppedRank(Exception):
    """Rank 0 continues without this rank."""


class Rendezvous:
    """The connection of the ranks. Rank 0 plans each measurement and gathers its results."""

    def __init__(self, process: Process, patience: float, deadline: Deadline, run_dir: Path) -> None:
        """Connects to the store, or serves it on rank 0.

        Args:
            process: this rank.
            patience: seconds to wait for rank 0.
            deadline: of the whole preflight.
            run_dir: of the run that is checked; ranks of another are refused.

        Raises:
            HangError: rank 0 cannot be reached within `patience` seconds.
            ConfigError: the port is taken.
            ForeignRunError: the ranks of another run meet at this address.
        """
        self.process, self.patience, self.deadline = process, patience, deadline
        self.active_ranks = list(range(process.world_size))
        """Ranks that still take part."""
        self.lost: dict[int, str] = {}
        """On rank 0, the ranks that stopped answering, and the measurement during which they did."""
        self.store = open_store(RunIdentity.of("preflight", run_dir, process, os.environ), process, patience)

    def gather_results(self, own: LocalResults) -> dict[int, LocalResults]:
        """Returns on rank 0 the local results of every rank that arrives within the patience, by rank; on other ranks nothing."""
        self.put(f"here/{self.process.rank}", orjson.dumps(own).decode())
        if not self.process.is_root:
            return {}
        arrived = self._collect("here", self.active_ranks, self.patience)
        self.active_ranks = sorted(arrived)
        return {rank: LocalResults.from_json(plain) for rank, plain in arrived.items()}

    def run_on_all(self, name: str, plan: Plan, work: Callable[[Plan], Any], seconds: float) -> dict[int, Any]:
        """Runs a function on all active ranks at the same time; the result of a rank on which it fails is {"error": sentence}.

        Args:
            name: of the measurement; a unique key in the store.
            plan: of rank 0, for all ranks; that of other ranks is ignored.
            work: called with rank 0's plan; its result must be plain JSON.
            seconds: rank 0 waits this long for the others after its own work; a rank that has not answered then is lost.

        Returns:
            On rank 0, results by rank; on others nothing.

        Raises:
            DroppedRank: rank 0 has continued without this rank.
        """
        self.deadline.section = name
        # The plan carries the active ranks, so that all ranks agree on who takes part before any collective is entered.
        if self.process.is_root:
            self.put(f"plan/{name}", orjson.dumps(plan | {"active_ranks": self.active_ranks}).decode())
        plan = orjson.loads(self.wait_for(f"plan/{name}", self.deadline.remaining))
        self.active_ranks = plan["active_ranks"]
        if self.process.rank not in self.active_ranks:
            raise DroppedRank
        try:
            result = work(plan)
        except (RuntimeError, OSError, HangError) as e:  # the first is torch's
            result = {"error": next(iter(str(e).splitlines()), type(e).__name__)}
        self.put(f"{name}/{self.process.rank}", orjson.dumps(result).decode())
        if not self.process.is_root:
            return {}
        results = self._collect(name, self.active_ranks, seconds)
        self.lost |= {rank: name for rank in self.active_ranks if rank not in results}
        self.active_ranks = sorted(results)
        return results

    def put(self, key: str, value: str) -> None:
        """Stores a value under a key."""
        self.store.set(key, value)

    def wait_for(self, key: str, seconds: float) -> str:
        """Returns what another rank stores under a key. Raises torch's DistError if it is not there within the seconds."""
        self.store.wait([key], timedelta(seconds=max(0.01, seconds)))
        return self.store.get(key).decode()

    @contextmanager
    def group(self, name: str, members: list[int], device: torch.device, seconds: float) -> Iterator[None]:
        """Opens the default process group among some ranks, NCCL on GPUs and gloo on CPUs, and destroys it afterwards.

        Args:
            name: of the group; a unique key in the store.
            members: ranks of the group.
            device: of this rank.
            seconds: time limit of the connection and of each collective.

        Raises:
            RuntimeError: of torch; the ranks cannot connect, or a collective exceeds the time limit.
        """
        # With blocking waits a slow NCCL collective raises in the waiting rank; otherwise NCCL's own watchdog would end the process.
        os.environ["TORCH_NCCL_BLOCKING_WAIT"] = "1"
        backend = "nccl" if device.type == "cuda" else "gloo"
        group_rank = members.index(self.process.rank)
        dist.init_process_group(
            backend,
            store=dist.PrefixStore(name, self.store),
            rank=group_rank,
            world_size=len(members),
            timeout=timedelta(seconds=seconds),
            device_id=device if device.type == "cuda" else None,
        )
        try:
            yield
        finally:
            dist.destroy_process_group()

    def close(self, seconds: float) -> None:
        """Ends the rendezvous. Rank 0 serves the store until the others have read the verdict, or the seconds have passed."""
        self.put(f"bye/{self.process.rank}", "")
        if self.process.is_root:
            self._collect("bye", self.active_ranks, seconds, read=False)

    def _collect(self, name: str, ranks: list[int], seconds: float, read: bool = True) -> dict[int, Any]:
        """Returns what ranks have stored under NAME/rank; the time limit is that of all ranks together."""
        end = time.monotonic() + seconds
        found = {}
        for rank in ranks:
            key = f"{name}/{rank}"
            try:
                # At least an instant for each: ranks may have answered while an earlier one used up the time.
                self.store.wait([key], timedelta(seconds=max(0.01, end - time.monotonic())))
                found[rank] = orjson.loads(self.store.get(key)) if read else None
            except dist.DistStoreError:
                continue
        return found
