"""Ranks of two runs that look at one address never mix: whoever does not belong there is refused with both named, and harms nobody."""

import socket
import subprocess
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

from jadeberta.cluster.environment import Process
from jadeberta.cluster.run_store import RunIdentity, is_loopback, open_store
from jadeberta.errors import ConfigError, ForeignRunError, HangError, JadebertaError
from jadeberta.utils.ports import free_port


def rank(number: int, port: int, launcher: str = "srun", size: int = 2) -> Process:
    return Process(launcher, number, number, size, "127.0.0.1", port)


def identity(run_dir: Path | str, launch: str = "job 7, step 0", purpose: str = "pretrain", size: int = 2) -> RunIdentity:
    return RunIdentity(purpose, str(run_dir), 0, "srun", launch, size)


@pytest.fixture
def port() -> int:
    return free_port()


def test_ranks_of_one_launch_meet(port) -> None:
    first = open_store(identity("/runs/a"), rank(0, port), 20)
    second = open_store(identity("/runs/a"), rank(1, port), 20)
    first.set("key", "value")
    assert second.get("key") == b"value"


@pytest.mark.parametrize("number", [0, 1])
@pytest.mark.parametrize(
    "other",
    [
        identity("/runs/b"),
        identity("/runs/b", "job 7, step 1"),
        identity("/runs/b", ""),
        identity("/runs/a", purpose="preflight"),
        identity("/runs/a", size=3),
        replace(identity("/runs/a"), launcher="torchrun"),
    ],
    ids=["run", "run-and-step", "launch-unknown", "preflight", "world-size", "launcher"],
)
def test_a_rank_of_another_run_is_refused_at_once_with_both_named(port, number, other) -> None:
    store = open_store(identity("/runs/a"), rank(0, port), 20)
    keys, began = store.num_keys(), time.monotonic()
    with pytest.raises(ForeignRunError) as refused:
        open_store(other, rank(number, port), 60)
    assert time.monotonic() - began < 10
    assert str(identity("/runs/a")) in str(refused.value) and str(other) in str(refused.value)
    assert f"127.0.0.1:{port}" in str(refused.value) and f"rank {number}" in str(refused.value)
    assert store.num_keys() == keys
    # Its own rank still gets its place.
    open_store(identity("/runs/a"), rank(1, port), 20)


def test_a_rank_waits_for_an_earlier_launch_of_its_own_run_to_end(port) -> None:
    earlier = open_store(identity("/runs/a", "job 7, step 0, start 0"), rank(0, port), 20)
    found: list = []

    def join(number: int) -> None:
        try:
            found.append(open_store(identity("/runs/a", "job 7, step 0, start 1"), rank(number, port), 30))
        except JadebertaError as e:
            found.append(e)

    threads = [threading.Thread(target=join, args=(number,)) for number in (0, 1)]
    for thread in threads:
        thread.start()
    time.sleep(0.3)
    assert found == []
    del earlier
    for thread in threads:
        thread.join()
    found[0].set("key", "value")
    assert found[1].get("key") == b"value"


def test_an_earlier_launch_that_does_not_end_is_a_hang(port) -> None:
    store = open_store(identity("/runs/a", "start 0"), rank(0, port), 20)
    with pytest.raises(HangError, match=f"127.0.0.1:{port} within 1 s"):
        open_store(identity("/runs/a", "start 1"), rank(1, port), 1)
    assert store.num_keys()


def test_a_port_that_something_else_holds_is_named(port) -> None:
    with socket.socket() as s:
        s.bind(("127.0.0.1", port))
        s.listen()
        with pytest.raises(ConfigError, match=f"rank 0 cannot listen at 127.0.0.1:{port} .*set MASTER_PORT"):
            open_store(identity("/runs/a"), rank(0, port), 20)


def test_hosts_may_see_the_run_directory_under_different_paths(tmp_path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    (tmp_path / "link").symlink_to(tmp_path)
    here, there = (RunIdentity.of("pretrain", path, rank(0, 1), {}) for path in (run, tmp_path / "link/run"))
    assert here.run_dir != there.run_dir and here.is_same_run(there) and here.is_same_launch(there)
    other = tmp_path / "link" / "other"
    other.mkdir()
    assert not here.is_same_run(RunIdentity.of("pretrain", other, rank(0, 1), {}))


def test_the_store_of_one_machine_listens_to_that_machine_alone(port) -> None:
    store = open_store(identity("/runs/a"), rank(0, port), 20)
    listening = subprocess.run(["cat", "/proc/self/net/tcp", "/proc/self/net/tcp6"], capture_output=True, text=True).stdout
    addresses = [line.split()[1].rpartition(":") for line in listening.splitlines() if " 0A " in line]
    assert [address for address, _, number in addresses if int(number, 16) == port] == ["0100007F"]
    assert store.num_keys()


@pytest.mark.parametrize(
    "address,own",
    [("127.0.0.1", True), ("127.3.2.1", True), ("::1", True), ("localhost", True), ("10.0.0.1", False), ("node1", False)],
)
def test_loopback_is_known_by_its_address(address, own) -> None:
    assert is_loopback(address) is own


def test_a_single_rank_opens_no_port() -> None:
    store = open_store(identity("/runs/a"), rank(0, 0, size=1), 20)
    store.set("key", "value")
    assert store.get("key") == b"value"
