"""The scrubber finds what a reader without checksums cannot see, and neither waits, nor is waited for, nor outlives the training."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from jadeberta.shards import ExcludedRows, open_shards
from jadeberta.shards.scrub import Scrubber
from tests.helpers import ROOT
from tests.shards.damage import flip_bit, without_checksums


def scrub(directory: Path, *arguments: object) -> list[dict]:
    command = [sys.executable, "-m", "jadeberta.shards.scrub", str(directory), *map(str, arguments)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=60)
    assert done.stderr == ""
    return [json.loads(line) for line in done.stdout.splitlines()]


def wait_until(condition: Callable[[], object], seconds: float = 20) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "not in time"
        time.sleep(0.02)


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def all_faults(scrubber: Scrubber) -> list[ExcludedRows]:
    found: list[ExcludedRows] = []
    wait_until(lambda: found.extend(scrubber.faults()) or scrubber.state != "running")
    return found


@pytest.fixture
def old(copied: Path) -> Path:
    return without_checksums(copied)


@pytest.fixture
def endless(old: Path) -> Path:
    """A directory whose second shard is a pipe that nobody writes into: the scrub gets no further."""
    (old / "web-00001.tar").unlink()
    os.mkfifo(old / "web-00001.tar")
    return old


def test_every_share_is_hashed_once_and_flipped_bits_are_named(old: Path) -> None:
    size = {name: (old / name).stat().st_size for name in ("web-00000.tar", "web-00001.tar", "wiki-00000.tar")}
    assert scrub(old) == [{"done": True, "shards": 3, "bytes": sum(size.values())}]
    flip_bit(old / "web-00001.tar", 3000)
    (old / "wiki-00000.tar").unlink()
    flip_bit(old / "valid-wiki-00000.tar")  # is not trained on
    gone, done = scrub(old, "--rank", 0, "--world", 2)
    assert gone["file"] == "wiki-00000.tar" and gone["sequences"] == 30 and "No such file" in gone["reason"]
    assert done == {"done": True, "shards": 2, "bytes": size["web-00000.tar"] + size["wiki-00000.tar"]}
    changed, done = scrub(old, "--rank", 1, "--world", 2)
    assert changed["file"] == "web-00001.tar" and changed["sequences"] == 2 and done["shards"] == 1
    assert changed["reason"].startswith(f"{old / 'web-00001.tar'}: sha256 differs from index.json (expected ")


def test_rows_of_a_length_that_is_not_there_are_named_in_one_sentence(old: Path) -> None:
    command = [sys.executable, "-m", "jadeberta.shards.scrub", str(old), "--sequence-length", "128"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1 and done.stdout == ""
    assert done.stderr.endswith("no rows of 128 tokens, but of 512. Name one of these with --sequence-length.\n")


def test_training_learns_of_a_fault_and_can_leave_the_shard_out(old: Path) -> None:
    flip_bit(old / "web-00001.tar", 3000)
    shards = open_shards(old, damaged="exclude")
    assert shards[1003][0].any()  # nothing is seen to be wrong
    scrubber = Scrubber(shards, 0, 1)
    assert scrubber.state == "running"
    (fault,) = all_faults(scrubber)
    assert (fault.file, fault.sequences, fault.whole_shard, scrubber.state) == ("web-00001.tar", 2, True, "done")
    shards.exclude_shard(fault.file, fault.reason)
    assert not shards[1003][0].any() and "sha256 differs" in shards.take_excluded()[0].reason
    assert scrubber.faults() == []
    scrubber.close()


def test_nothing_is_scrubbed_where_every_row_has_a_checksum(written: Path) -> None:
    scrubber = Scrubber(open_shards(written), 0, 1)
    assert (scrubber.state, scrubber.faults(), scrubber._process) == ("not needed", [], None)
    scrubber.close()


def test_a_scrub_does_not_wait_leaves_signals_alone_and_gives_way(endless: Path) -> None:
    scrubber = Scrubber(open_shards(endless, damaged="exclude"), 0, 1)
    pid = scrubber._process.pid
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):
        os.kill(pid, number)  # while it starts
    wait_until(lambda: os.getpriority(os.PRIO_PROCESS, pid) == 19)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):
        os.kill(pid, number)
    began = time.monotonic()
    assert scrubber.faults() == [] and scrubber.state == "running" and alive(pid)
    assert time.monotonic() - began < 0.1
    assert signal.pthread_sigmask(signal.SIG_BLOCK, []) == set()
    scrubber.close()
    assert not Path(f"/proc/{pid}").exists() and scrubber.faults() == []
    scrubber.close()


def test_a_scrub_that_was_killed_is_reported_as_broken(endless: Path) -> None:
    scrubber = Scrubber(open_shards(endless, damaged="exclude"), 0, 1)
    os.kill(scrubber._process.pid, signal.SIGKILL)
    assert all_faults(scrubber) == [] and scrubber.state == "broken"


def test_a_scrub_ends_with_a_training_process_that_is_killed(endless: Path) -> None:
    code = (
        "import time; from jadeberta.shards import open_shards; from jadeberta.shards.scrub import Scrubber\n"
        f"scrubber = Scrubber(open_shards({str(endless)!r}, damaged='exclude'), 0, 1)\n"
        "print(scrubber._process.pid, flush=True); time.sleep(60)"
    )
    trainer = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    pid = int(trainer.stdout.readline())
    wait_until(lambda: os.getpriority(os.PRIO_PROCESS, pid) == 19)
    trainer.kill()
    trainer.wait()
    wait_until(lambda: not alive(pid), 5)
