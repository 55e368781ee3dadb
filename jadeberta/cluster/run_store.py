"""The key-value store in which the ranks of one run meet: nobody of another run, or of another launch of this one, gets in.

On one machine several runs may be on their way at the same time, and a port says nothing about who listens there. So rank 0 writes into its
store whose it is, and every rank compares that with its own run before any process group forms.
"""

import ipaddress
import os
import socket
import threading
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import timedelta
from pathlib import Path

import orjson
import torch.distributed as dist

from jadeberta.cluster.environment import Process, launch_name
from jadeberta.errors import ConfigError, ForeignRunError, HangError

IDENTITY = "identity"
"""Key of the store."""
IDENTITY_S = 60.0
"""Seconds for rank 0 to write its identity after it has begun to listen, which takes milliseconds unless the machine is overloaded."""
ANSWER_S = 2.0
"""Seconds for what listens there to answer in the store's protocol, at least."""
AGAIN_S = 0.5
"""Seconds between two looks at a store that an earlier launch of the same run still serves."""


@dataclass(frozen=True)
class RunIdentity:
    """What the ranks of one launch of a run have in common, and no other process has."""

    purpose: str
    """The command: pretrain or preflight."""
    run_dir: str
    """Absolute path."""
    inode: int
    """Of the run directory; 0 where it does not exist. Hosts may see one directory under different paths."""
    launcher: str
    launch: str
    """How the launcher names this launch; empty where it has no name for it."""
    world_size: int

    @staticmethod
    def of(purpose: str, run_dir: Path, process: Process, env: Mapping[str, str]) -> "RunIdentity":
        """Identity of this process.

        Args:
            purpose: pretrain or preflight.
            run_dir: of the run.
            process: this rank.
            env: its environment.
        """
        return RunIdentity(
            purpose, str(run_dir.absolute()), _inode(run_dir), process.launcher, launch_name(env, process), process.world_size
        )

    def is_same_run(self, other: "RunIdentity") -> bool:
        """Whether this process and another, maybe on another host, work in one run directory."""
        # Asked now: rank 0 makes the directory, maybe after this process has begun.
        same_file = 0 != _inode(Path(self.run_dir)) == other.inode
        return self.run_dir == other.run_dir or same_file

    def is_same_launch(self, other: "RunIdentity") -> bool:
        """Whether both are ranks that were started together."""
        mine, theirs = (asdict(identity) | {"run_dir": "", "inode": 0} for identity in (self, other))
        if not (self.launch and other.launch):  # unknown on one side: it tells nothing
            mine["launch"] = theirs["launch"] = ""
        return self.is_same_run(other) and mine == theirs

    def __str__(self) -> str:
        launch = f"{self.launcher}, {self.launch}" if self.launch else self.launcher
        return f"'{self.purpose}' in {self.run_dir} ({launch}, world size {self.world_size})"


def open_store(identity: RunIdentity, process: Process, patience: float) -> dist.Store:
    """Opens the store of a run, which rank 0 serves, except under torchrun, which may serve its own.

    Args:
        identity: of this process.
        process: this rank.
        patience: seconds to wait for rank 0.

    Raises:
        ConfigError: the port is taken by something that is no run.
        ForeignRunError: another run meets at this address.
        HangError: rank 0 cannot be reached in time.
    """
    if process.world_size == 1:
        return dist.HashStore()
    of_agent = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    end = time.monotonic() + patience
    # The store of torchrun's agent outlives a restart, and keys of the earlier attempt must not be read.
    prefix = f"jadeberta/{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}"
    while True:
        if process.is_root and not of_agent:
            store = _serve(identity, process, prefix, end)
        else:
            store = _connect(process, end - time.monotonic(), patience)
        if store is not None:
            named = dist.PrefixStore(prefix, store)
            found = _identity_in(named, identity, process, end, of_agent)
            if found is not None and identity.is_same_launch(found):
                store.set_timeout(timedelta(seconds=patience))
                return named
            if found is not None and not _may_pass(identity, found):
                raise _refusal(identity, found, process)
        if time.monotonic() > end:
            where = f"{process.master_addr}:{process.master_port}"
            raise HangError(
                f"rank {process.rank} did not meet the others at {where} within {patience:.0f} s (an earlier launch is there)."
            )
        # An earlier launch of this run is about to end, or has ended while it was asked.
        time.sleep(AGAIN_S)


def _may_pass(mine: RunIdentity, found: RunIdentity) -> bool:
    """Whether what is at the address is an earlier launch of this run, which will end."""
    return mine.is_same_run(found) and mine.launcher == found.launcher and mine.launch != found.launch


def _refusal(mine: RunIdentity, found: RunIdentity, process: Process) -> ForeignRunError:
    return ForeignRunError(
        f"{process.master_addr}:{process.master_port}, where rank {process.rank} of {mine} looked for its run, belongs to {found}. "
        "Give each run a MASTER_PORT of its own, or run one after the other."
    )


def _serve(identity: RunIdentity, process: Process, prefix: str, end: float) -> dist.Store | None:
    """Rank 0's store; None where an earlier launch of this run still listens at its port."""
    try:
        return _listen(process, max(1.0, end - time.monotonic()))
    except (dist.DistError, OSError) as e:
        try:
            store = _connect(process, 1.0, 1.0)
            found = _read(dist.PrefixStore(prefix, store), 3.0)
        except (HangError, dist.DistError, ValueError, TypeError):  # TypeError: of another version, with other fields
            found = None
        if found is None:
            reason = next(iter(str(e).splitlines()))
            where = f"{process.master_addr}:{process.master_port}"
            raise ConfigError(f"rank 0 cannot listen at {where} ({reason}). Free the port or set MASTER_PORT.") from e
        if not _may_pass(identity, found):
            raise _refusal(identity, found, process) from e
        return None


def _listen(process: Process, patience: float) -> dist.Store:
    """Begins to serve a store; at an address of this machine alone where that is the one to meet at."""
    host, port, limit = process.master_addr, process.master_port, timedelta(seconds=patience)
    # wait_for_workers: a rank that is missing must not keep rank 0 from serving the others.
    if not is_loopback(host):
        return dist.TCPStore(host, port, None, True, timeout=limit, wait_for_workers=False)
    # TCPStore itself would listen on every address of the machine.
    family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    with socket.socket(family, socket.SOCK_STREAM) as s:
        s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        s.bind(address)
        s.listen(1024)
        store = dist.TCPStore(host, port, None, True, timeout=limit, wait_for_workers=False, master_listen_fd=s.fileno())
        s.detach()  # the store closes it
    return store


def is_loopback(address: str) -> bool:
    """Whether an address or name is this machine's own, which no other machine can reach."""
    try:
        return address == "localhost" or ipaddress.ip_address(address).is_loopback
    except ValueError:
        return False


def _connect(process: Process, seconds: float, patience: float) -> dist.Store:
    """Reaches the store of another process.

    Args:
        process: this rank.
        seconds: time limit.
        patience: of the whole meeting, for the message.
    """
    host, port, end = process.master_addr, process.master_port, time.monotonic() + max(1.0, seconds)
    found: list[dist.Store] = []
    reason = _wait_for_listener(host, port, end)
    if not reason:
        reason = "what listens there is no rank of jadeberta"

        def connect() -> None:
            nonlocal reason
            limit = timedelta(seconds=max(ANSWER_S, end - time.monotonic()))
            try:
                found.append(dist.TCPStore(host, port, None, False, timeout=limit, wait_for_workers=False))
            except dist.DistError as e:
                reason = next(iter(str(e).splitlines()))

        # TCPStore's own time limit does not cover a listener that takes the connection and says nothing.
        thread = threading.Thread(target=connect, daemon=True)
        thread.start()
        thread.join(max(ANSWER_S, min(IDENTITY_S, end - time.monotonic())))
    if not found:
        raise HangError(f"rank {process.rank} did not reach rank 0 at {host}:{port} within {patience:.0f} s ({reason}).")
    return found[0]


def _wait_for_listener(host: str, port: int, end: float) -> str:
    """Waits until something listens; returns why nobody could be reached until the end, else nothing."""
    while True:
        try:
            socket.create_connection((host, port), timeout=min(10.0, max(1.0, end - time.monotonic()))).close()
            return ""
        except OSError as e:
            if time.monotonic() >= end:
                return (e.strerror or str(e)).lower()
        time.sleep(0.1)  # rank 0 is still importing; a refused connection comes back at once


def _identity_in(store: dist.Store, identity: RunIdentity, process: Process, end: float, of_agent: bool) -> RunIdentity | None:
    """Whose store this is; rank 0 writes it. None where the store went away while it was asked."""
    if process.is_root:
        # One step: of two ranks 0 at an agent's store, the second gets the first one's identity.
        found = store.compare_set(IDENTITY, "", orjson.dumps(asdict(identity)).decode())
        return RunIdentity(**orjson.loads(found))
    # An agent's store is there long before rank 0 is.
    limit = end - time.monotonic() if of_agent else min(IDENTITY_S, end - time.monotonic())
    try:
        return _read(store, max(1.0, limit))
    except dist.DistNetworkError:
        return None
    except (dist.DistError, ValueError, TypeError) as e:
        where = f"{process.master_addr}:{process.master_port}"
        raise HangError(
            f"at {where} rank {process.rank} found no rank 0 of a run within {limit:.0f} s. Set another MASTER_PORT."
        ) from e


def _read(store: dist.Store, seconds: float) -> RunIdentity:
    store.wait([IDENTITY], timedelta(seconds=seconds))
    return RunIdentity(**orjson.loads(store.get(IDENTITY)))


def _inode(directory: Path) -> int:
    try:
        return directory.stat().st_ino
    except OSError:
        return 0
