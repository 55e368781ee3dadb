"""Where saving goes wrong, training goes on: disks that fill up, fail, turn read-only, crawl or hang, under real runs.

Disks are memory (tmpfs), mounted where only this test sees them, or a library that stands before the calls of the run's processes.
"""

import contextlib
import ctypes
import mmap
import os
import re
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from jadeberta.checkpoint.manifest import list_checkpoints, step_of, verify
from jadeberta.training.loop import SAVE_TRIES
from jadeberta.utils.json_lines import read_jsonl
from tests.fork_server import ForkedProcess
from tests.helpers import make_recipe, make_shards, read_metrics, run_ranks, start_ranks
from tests.training.test_resume import content

STEPS = 16
CHANGES = {"training": {"max_steps": STEPS, "global_batch_size": 2, "micro_batch_size": 1}}
"""With a save at every second step, as make_recipe has it."""
A_MOMENT = "write metrics.jsonl$ sleep=0.3"
"""Makes every step a little longer, so that a test that watches is never far behind."""
CLONE_NEWNS, MS_PRIVATE_ALL = 0x20000, 1 << 18 | 1 << 14


@pytest.fixture(scope="module")
def shards(tmp_path_factory) -> Path:
    return make_shards(tmp_path_factory.mktemp("shards"), {"wikipedia": (20, 3)})


@pytest.fixture(scope="module")
def library(tmp_path_factory) -> Path:
    """The disk that fails, compiled."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("no C compiler")
    built = tmp_path_factory.mktemp("library") / "faulty_disk.so"
    subprocess.run(
        [compiler, "-shared", "-fPIC", "-O1", "-o", built, Path(__file__).with_name("faulty_disk.c"), "-ldl"], check=True
    )
    return built


@pytest.fixture(scope="module")
def unbroken(shards, tmp_path_factory) -> Callable[[int], dict[str, str]]:
    """What is trained after the last step of a run of some ranks on a disk that has no faults."""
    found: dict[int, dict[str, str]] = {}

    def last(ranks: int) -> dict[str, str]:
        if ranks not in found:
            folder = tmp_path_factory.mktemp("unbroken")
            recipe = make_recipe(folder / "recipe.yaml", shards, folder / "run", **CHANGES)
            run_ranks(ranks, "pretrain", "--config", str(recipe), log=folder / "log")
            found[ranks] = content(folder / f"run/checkpoints/step-{STEPS:08d}")
        return found[ranks]

    return last


@pytest.fixture
def mount() -> Iterator[Callable[..., None]]:
    """Runs mount(8) where nobody but this test and what it starts sees the result; all of it is gone afterwards."""
    libc = ctypes.CDLL(None, use_errno=True)
    home, here = os.open("/proc/thread-self/ns/mnt", os.O_RDONLY), Path.cwd()
    if libc.unshare(CLONE_NEWNS) != 0:
        os.close(home)
        pytest.skip(f"mounting needs root: {os.strerror(ctypes.get_errno())}")
    try:
        if libc.mount(b"none", b"/", None, MS_PRIVATE_ALL, None) != 0:
            pytest.skip(f"mounting is not allowed here: {os.strerror(ctypes.get_errno())}")
        yield lambda *arguments: subprocess.run(["mount", *map(str, arguments)], check=True, capture_output=True)
    finally:
        deadline = time.monotonic() + 10
        while libc.setns(home, CLONE_NEWNS) != 0:  # refused while the kernel still ends a thread that was joined
            assert time.monotonic() < deadline, os.strerror(ctypes.get_errno())
            time.sleep(0.01)
        os.close(home)
        os.chdir(here)  # setns has made the namespace's root the working directory


class Run:
    """A run on a faulty disk, watched while it goes."""

    def __init__(self, folder: Path, shards: Path, library: Path, ranks: int = 1, **changes: dict) -> None:
        self.dir, self.log, self.ranks = folder / "run", folder / "log", ranks
        self.rules, self._folder = folder / "rules", folder
        self.checkpoints = self.dir / "checkpoints"
        self.checkpoints.mkdir(parents=True)
        self._library = library
        self._recipe = make_recipe(folder / "recipe.yaml", shards, self.dir, **(CHANGES | changes))
        self._processes: list[ForkedProcess] = []

    def start(self, *rules: str) -> None:
        self.rules.write_text("".join(f"{rule}\n" for rule in rules))
        faults = {"preload": str(self._library), "LD_PRELOAD": str(self._library), "FAULTY_DISK": str(self.rules)}
        self._processes = start_ranks(self.ranks, "pretrain", "--config", str(self._recipe), log=self.log, **faults)

    def gate(self, who: str) -> Path:
        return self._folder / f"gate-of-the-{who}"

    @contextlib.contextmanager
    def holding(self, who: str) -> Iterator[Path]:
        """The writer or the trainer stands still where a rule says hold=GATE."""
        self.gate(who).touch()
        yield self.gate(who)
        self.gate(who).unlink()

    def until(self, condition: Callable[[], object], seconds: float = 90) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline and all(p.poll() is None for p in self._processes), self.printed()[-3000:]
            time.sleep(0.01)

    def events(self, kind: str) -> list[dict]:
        return [row for row in read_jsonl(self.dir / "ledger.jsonl") if row["event"] == kind]

    def steps_of(self, kind: str) -> list[int]:
        return [row["step"] for row in self.events(kind)]

    def all_but_failed(self) -> list[int]:
        """Steps whose save did not fail, with a save at every second."""
        return [step for step in range(2, STEPS + 1, 2) if step not in self.steps_of("save_failed")]

    def printed(self) -> str:
        return self.log.with_suffix(".0.log").read_text()

    def end(self, seconds: float = 120) -> list[int]:
        """Waits for the end; the statuses."""
        return [p.wait(seconds) for p in self._processes]

    def stop(self) -> None:
        for p in self._processes:
            p.kill()
            p.wait()

    def assert_complete(self, expected: dict[str, str], saved: list[int]) -> None:
        """It ended well, with the bits of the unbroken run and these checkpoints, all of which verify."""
        assert self.end() == [0] * self.ranks, self.printed()[-3000:]
        assert [step_of(d) for d in list_checkpoints(self.checkpoints)] == saved == self.steps_of("save")
        assert [p.name for p in self.checkpoints.iterdir() if p.suffix] == []
        assert all(verify(d) == [] for d in list_checkpoints(self.checkpoints))
        assert content(self.checkpoints / f"step-{STEPS:08d}") == expected
        assert [row["faults"] for row in self.events("verified")] == [[]] * len(saved)


@pytest.fixture
def run_on(shards, library, tmp_path) -> Iterator[Callable[..., Run]]:
    """Arranges a run; ends what is left of it."""
    made: list[Run] = []

    def arrange(ranks: int = 1, **changes: dict) -> Run:
        made.append(Run(tmp_path, shards, library, ranks, **changes))
        return made[-1]

    yield arrange
    for run in made:
        run.stop()


def fill(directory: Path) -> Path:
    """A file that takes all the room there is; called again it takes what has become free."""
    filler = directory / "filler"
    disk = os.statvfs(directory)
    with open(filler, "ab") as f, contextlib.suppress(OSError):
        os.posix_fallocate(f.fileno(), f.tell(), max(1, disk.f_bavail * disk.f_frsize))
    return filler


@pytest.mark.slow
def test_a_disk_that_fills_up_in_mid_write_and_is_cleared_later_costs_only_the_saves_between(run_on, mount, unbroken) -> None:
    run = run_on()
    mount("-t", "tmpfs", "-o", "size=70m", "none", run.checkpoints)
    with run.holding("writer") as writer:
        run.start(
            A_MOMENT, f"write metrics.jsonl$ hold={run.gate('trainer')}", f"write step-00000004.tmp/optimizer hold={writer}"
        )
        # The space was checked and the write has begun when another file takes the room.
        run.until(lambda: (run.checkpoints / "step-00000004.tmp/optimizer-00001-of-00001.safetensors").exists())
        filler = fill(run.checkpoints)
    run.until(lambda: 6 in run.steps_of("save_failed"))
    with run.holding("trainer"):
        filler.unlink()
    run.end()
    failed = run.events("save_failed")
    assert [row["step"] for row in failed[:2]] == [4, 6] and len(failed) <= 4
    assert "No space left on device" in failed[0]["error"] and "MiB needed, 0 MiB free" in failed[1]["error"]
    run.assert_complete(unbroken(1), run.all_but_failed())


@pytest.mark.slow
def test_io_errors_at_every_stage_of_a_save_cost_that_save_and_nothing_else(run_on, unbroken) -> None:
    run = run_on(ranks=2)
    run.start(
        "write step-00000002.tmp/optimizer-00002 EIO",
        "fsync step-00000004.tmp/model EIO",
        "fsync step-00000006.tmp$ EIO",
        "rename step-00000008.tmp$ EIO",
        "mkdir step-00000010.tmp$ EIO",
        "write step-00000014.tmp/manifest EIO",
    )
    run.end()
    failed = {row["step"]: row["error"] for row in run.events("save_failed")}
    assert list(failed) == [2, 4, 6, 8, 10, 14] and all("Input/output error" in error for error in failed.values()), failed
    assert failed[2].startswith("rank 1") and "rank 1" not in failed[4]
    run.assert_complete(unbroken(2), [12, 16])


@pytest.mark.slow
def test_a_disk_that_turns_read_only_and_back_costs_only_the_saves_between(run_on, mount, unbroken) -> None:
    run = run_on()
    mount("-t", "tmpfs", "-o", "size=100m", "none", run.checkpoints)

    def remount(how: str) -> bool:
        """Not while a file is being written."""
        return subprocess.run(["mount", "-o", f"remount,{how}", run.checkpoints], capture_output=True).returncode == 0

    with run.holding("writer") as writer:
        run.start(A_MOMENT, f"write metrics.jsonl$ hold={run.gate('trainer')}", f"fsync step-00000004.tmp$ hold={writer}")
        run.until(lambda: (run.checkpoints / "step-00000004.tmp/manifest.json").exists())
        run.until(lambda: remount("ro"))  # and cannot be renamed, nor removed
    run.until(lambda: 6 in run.steps_of("save_failed"))
    with run.holding("trainer"):
        run.until(lambda: remount("rw"))
    run.end()
    failed = run.events("save_failed")
    assert [row["step"] for row in failed[:2]] == [4, 6] and len(failed) <= 4
    assert all("Read-only file system" in row["error"] for row in failed)
    run.assert_complete(unbroken(1), run.all_but_failed())


@pytest.mark.slow
def test_steps_go_on_beside_a_save_on_a_slow_disk_and_the_next_save_waits(run_on, unbroken) -> None:
    run = run_on(checkpoint={"every_steps": STEPS // 2})
    run.start("write step- sleep=0.5")
    run.end()
    first, second = run.events("save")
    beside = [row["step"] for row in read_metrics(run.dir) if first["time"] - first["write_s"] < row["time"] < first["time"]]
    assert first["write_s"] > 2.5 and first["stall_s"] < 0.5
    assert len(beside) >= 3 and beside[0] == STEPS // 2 + 1, beside
    assert second["time"] - first["time"] > 2.5  # one after the other
    run.assert_complete(unbroken(1), [STEPS // 2, STEPS])


@pytest.mark.slow
def test_a_disk_that_hangs_is_given_up_after_the_limit_and_the_next_save_is_another_try(run_on, unbroken) -> None:
    run = run_on(watchdog={"save_s": 8.0})
    run.start("fsync step-00000004.tmp/optimizer sleep=1000")
    run.end()
    failed = run.events("save_failed")
    assert [row["step"] for row in failed] == [4], run.printed()[-3000:]
    assert "given up; the disk may hang" in failed[0]["error"]
    run.assert_complete(unbroken(1), run.all_but_failed())


@pytest.mark.slow
def test_a_last_save_that_hangs_ends_the_run_with_the_sentence_that_says_so_and_the_next_start_makes_it(run_on, unbroken) -> None:
    run = run_on(watchdog={"save_s": 8.0}, checkpoint={"every_steps": 8})
    run.start(f"fsync step-{STEPS:08d}.tmp sleep=1000")
    assert run.end() == [1], run.printed()[-2000:]
    assert f"the last checkpoint, of step {STEPS}, could not be written (rank 0: not done after 4 s" in run.printed()
    # On a busy machine the writer comes to the last save before it has read back the one of step 8, and then the sentence says so.
    assert re.search(r"the newest that was read back as it was written is of step [08]\. Make room", run.printed())
    assert run.steps_of("save_failed") == [STEPS] and not (run.dir / "DONE").exists()
    run.start()
    run.assert_complete(unbroken(1), [8, STEPS])


@pytest.mark.slow
def test_a_last_checkpoint_that_is_read_back_bad_is_saved_again_and_a_run_without_a_good_one_is_not_done(
    run_on, unbroken
) -> None:
    run = run_on(checkpoint={"every_steps": 8})
    weights = f"write step-{STEPS:08d}.tmp/model.safetensors$"
    run.start(f"{weights} flip")
    assert run.end() == [1], run.printed()[-2000:]
    assert (
        f"of step {STEPS}, was read back and is not what was written" in run.printed() and "written is of step 8" in run.printed()
    )
    bad = [row["faults"] for row in run.events("verified") if row["step"] == STEPS]
    assert len(bad) == SAVE_TRIES and all("model.safetensors: sha256 differs" in faults[0] for faults in bad)
    assert not (run.dir / "DONE").exists() and not run.events("done")
    run.gate("writer").touch()
    run.start(f"{weights} flip={run.gate('writer')}")
    assert run.end() == [0], run.printed()[-2000:]
    assert [len(row["faults"]) for row in run.events("verified") if row["step"] == STEPS][SAVE_TRIES:] == [1, 0]
    assert content(run.checkpoints / f"step-{STEPS:08d}") == unbroken(1) and (run.dir / "DONE").exists()


@pytest.mark.slow
def test_a_run_directory_that_is_full_loses_lines_of_its_records_and_nothing_else(run_on, mount, unbroken) -> None:
    run = run_on(checkpoint={"every_steps": 4})
    mount("-t", "tmpfs", "-o", "size=80m", "none", run.dir)
    metrics, ledger = run.dir / "metrics.jsonl", run.dir / "ledger.jsonl"
    run.start(A_MOMENT, f"write metrics.jsonl$ hold={run.gate('trainer')}")
    run.until(lambda: run.steps_of("verified"))
    with run.holding("trainer"):
        for records in (metrics, ledger):
            # The page that a file ends in takes some more bytes on a full disk: let it be so few that they end in mid-line.
            with open(records, "ab") as f:
                f.write(b"\n" * (-(records.stat().st_size + 50) % mmap.PAGESIZE))
        filler = fill(run.dir)
    run.until(
        lambda: (
            fill(run.dir)
            and all(f"{records} cannot be written (No space left" in run.printed() for records in ("metrics", "ledger"))
        )
    )
    with run.holding("trainer"):
        filler.unlink()
    assert run.end() == [0], run.printed()[-3000:]
    # What was written before and after can be read; a line that the full disk cut spoils no other.
    written = [row["step"] for row in read_jsonl(metrics)]
    assert written[:4] == [1, 2, 3, 4] and written[-3:] == [STEPS - 2, STEPS - 1, STEPS], written
    saved = [step_of(d) for d in list_checkpoints(run.checkpoints)]
    assert saved[0] == 4 and saved[-1] == STEPS and run.events("done")
    run.assert_complete(unbroken(1), saved)
