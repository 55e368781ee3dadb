"""Ranks on this machine check, meet, measure and end, also if some never arrive, stop answering, or wait for a dead file system."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import orjson
import pytest

from jadeberta.cluster.environment import host_name
from jadeberta.jobs.local_launcher import rank_environment
from jadeberta.preflight import host_info as machine
from jadeberta.preflight.host_info import JOB_VARIABLES, job_key, source_hash
from jadeberta.preflight.storage_info import write_speed
from jadeberta.preflight.timeouts import BackgroundCall, TimedOut, call_with_timeout
from jadeberta.utils.ports import free_port
from tests.fork_server import ForkedProcess, fork_server, run_forked
from tests.helpers import ROOT, make_recipe, make_shards


class Start:
    """Ranks of one preflight, each a process."""

    def __init__(self, work: Path, world_size: int, *options: str) -> None:
        self.work, self.world_size, self.options = work, world_size, options
        self.run_dir, self.port = work / "a run", free_port()
        self.recipe = work / "recipe.yaml"
        if not self.recipe.exists():
            make_recipe(self.recipe, make_shards(work / "shards", {"wikipedia": (8, 1)}), self.run_dir)
        self.ranks: dict[int, ForkedProcess] = {}

    def start(self, *ranks: int) -> None:
        for rank in ranks:
            env = {k: v for k, v in os.environ.items() if not k.startswith(("SLURM", "OMPI_", "PMI"))}
            env |= rank_environment(rank, self.world_size, self.port, cores=2) | {"OMP_NUM_THREADS": "1"}
            arguments = ["preflight", "--config", str(self.recipe), *self.options]
            with open(self.work / f"rank-{rank}.log", "wb") as out:
                self.ranks[rank] = fork_server("").start(arguments, env, out.fileno(), out.fileno())

    def ended(self, *ranks: int, timeout: float = 120) -> list[int]:
        """Statuses."""
        end = time.monotonic() + timeout
        try:
            return [self.ranks[rank].wait(max(0.1, end - time.monotonic())) for rank in ranks or self.ranks]
        except subprocess.TimeoutExpired:
            raise AssertionError("\n".join(self.printed(rank) for rank in self.ranks)) from None

    def wait_until_met(self) -> None:
        end = time.monotonic() + 60
        while not list(self.run_dir.glob("preflight/*/seen-*")):
            assert time.monotonic() < end and self.ranks[0].poll() is None, self.printed(0)
            time.sleep(0.01)

    def kill(self) -> None:
        for process in self.ranks.values():
            process.kill()
            process.wait()

    def printed(self, rank: int) -> str:
        return (self.work / f"rank-{rank}.log").read_text()

    @property
    def report(self) -> dict[str, Any]:
        return orjson.loads((self.run_dir / "preflight.json").read_bytes())


def test_two_ranks_find_themselves_fit_and_measure_what_a_prediction_needs(tmp_path) -> None:
    start = Start(tmp_path, 2)
    start.start(0, 1)
    assert start.ended() == [0, 0], start.printed(0)
    report = start.report
    assert report["fit"] and report["unfit"] == {} and report["common"] == [] and report["world_size"] == 2
    (host,) = report["hosts"]
    assert host["ranks"] == [0, 1] and host["inside_bandwidth_bytes_per_s"] > 0 and host["gemm_flops_per_second"] > 0
    found = report["constants"]
    assert found["ranks"] == 2 and len(found["all_reduce_points"]) > 1
    for name in (
        "bandwidth_bytes_per_s",
        "all_gather_bandwidth_bytes_per_s",
        "gemm_flops_per_second_per_rank",
        "fsync_bytes_per_second",
    ):
        assert found[name] > 0, name
    assert "fit: 1 host, 2 ranks" in start.printed(0) and start.printed(1) == ""
    assert report["took_s"] < 60
    assert [path.name for path in start.run_dir.iterdir()] == ["preflight.json"]


def test_one_process_needs_no_launcher_and_no_deepspeed(tmp_path) -> None:
    start = Start(tmp_path, 1)
    arguments = ["--config", str(start.recipe), "--json", str(tmp_path / "report.json")]
    code = (
        "import sys; from jadeberta.preflight.cli import main; "
        f"status = main({arguments!r}); sys.exit(status or 5 * ('deepspeed' in sys.modules))"
    )
    env = {k: v for k, v in os.environ.items() if not k.startswith(("SLURM", "OMPI_", "PMI"))}
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    report = orjson.loads((tmp_path / "report.json").read_bytes())
    assert report["fit"] and report["hosts"][0]["versions"]["deepspeed"] != "missing"
    assert report["constants"]["bandwidth_bytes_per_s"] is None and report["constants"]["gemm_flops_per_second_per_rank"] > 0


def test_a_rank_that_never_comes_is_told_within_the_patience_and_the_old_verdict_is_gone(tmp_path) -> None:
    start = Start(tmp_path, 2, "--patience", "3")
    start.run_dir.mkdir()
    (start.run_dir / "preflight.json").write_text('{"fit": true}')
    start.start(0)
    assert start.ended() == [1]
    assert start.report["fit"] is False and start.report["unfit"] == {}
    (fault,) = start.report["common"]
    assert fault.startswith("rank 1 has not appeared within 3 s")


def test_where_rank_0_never_comes_another_rank_says_so(tmp_path) -> None:
    start = Start(tmp_path, 3, "--patience", "3")
    start.start(1, 2)
    assert start.ended() == [1, 1]
    assert any(fault.startswith("rank 0 has not appeared") for fault in start.report["common"])
    assert (
        "did not reach rank 0 at 127.0.0.1" in start.printed(1)
        and "UNFIT" in start.printed(1)
        and "UNFIT" not in start.printed(2)
    )


def test_a_rank_that_falls_silent_is_named_and_the_others_end(tmp_path) -> None:
    start = Start(tmp_path, 2)
    start.start(0, 1)
    start.wait_until_met()
    start.ranks[1].send_signal(signal.SIGSTOP)
    try:
        assert start.ended(0) == [1]
    finally:
        start.kill()
    ((host, reasons),) = start.report["unfit"].items()
    assert host == host_name({}) and reasons[0].startswith("rank 1 stopped answering during: ")
    assert start.report["took_s"] < 60


def test_where_rank_0_is_killed_another_rank_says_so(tmp_path) -> None:
    start = Start(tmp_path, 3)
    start.start(0, 1, 2)
    start.wait_until_met()
    start.ranks[0].kill()
    assert start.ended(1, 2) == [1, 1]
    assert start.report["unfit"] == {host_name({}): ["rank 0 stopped answering during the measurements"]}


def test_a_file_system_that_hangs_is_told_and_does_not_hang_the_preflight(tmp_path) -> None:
    start = Start(tmp_path, 1)
    (tmp_path / "shards" / "index.json").unlink()
    os.mkfifo(tmp_path / "shards" / "index.json")  # nobody will ever write into it
    start.start(0)
    assert start.ended() == [1]
    assert start.report["unfit"] == {}
    assert start.report["common"] == [f"data.shards {tmp_path / 'shards'}: no answer within 10 s"]
    assert start.report["constants"]["gemm_flops_per_second_per_rank"] > 0


def test_a_missing_shard_and_a_run_directory_that_cannot_be_made_are_told_together(tmp_path) -> None:
    start = Start(tmp_path, 1, "--json", str(tmp_path / "report.json"))
    (tmp_path / "shards" / "wikipedia-00000.tar").unlink()
    start.run_dir.write_text("a file is in the way")
    start.start(0)
    assert start.ended() == [1]
    report = orjson.loads((tmp_path / "report.json").read_bytes())
    assert len(report["common"]) == 2
    assert report["common"][0].endswith("wikipedia-00000.tar is missing")
    assert f"run.dir {start.run_dir}: cannot be written to" in report["common"][1]


def test_a_verdict_that_cannot_be_written_is_one_line(tmp_path) -> None:
    start = Start(tmp_path, 1)
    start.run_dir.write_text("a file is in the way")
    done = run_forked("preflight", "--config", start.recipe)
    (line,) = done.stderr.splitlines()
    where = start.run_dir / "preflight.json"
    assert done.returncode == 1
    assert line == f"rank 0: {where}: the verdict cannot be written (File exists). Name another file with --json."


@pytest.mark.parametrize(
    "options,message",
    [
        (["--siblings", "1.5"], "'1.5' is not a share below 1"),
        (["--patience", "soon"], "'soon' is not a number above 0"),
        (["--training.max_step", "3"], "unknown key training.max_step"),
        (["--data.shards", ""], "data.shards is not set"),
        (["--json", "."], "--json .: a folder, a pipe or a device; name a file, which is replaced."),
    ],
)
def test_a_wrong_option_is_one_sentence_and_status_2(tmp_path, options, message) -> None:
    start = Start(tmp_path, 1)
    done = run_forked("preflight", "--config", start.recipe, *options)
    assert done.returncode == 2 and message in done.stderr and len(done.stderr.splitlines()) == 1


def test_a_process_ends_at_its_limit_whatever_it_hangs_in(tmp_path) -> None:
    os.mkfifo(tmp_path / "fifo")
    words = tmp_path / "words"
    code = f"""
from pathlib import Path
from jadeberta.preflight.timeouts import Deadline
deadline = Deadline(2.0, Path({str(words)!r}).write_text)
deadline.section = "reading"
open({str(tmp_path / "fifo")!r}).read()
"""
    began = time.monotonic()
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, timeout=30).returncode == 1
    assert words.read_text() == "the preflight was not done after 2 s; this rank was at: reading"
    assert time.monotonic() - began < 20


def test_a_call_with_a_time_limit_gives_its_value_its_error_or_a_timeout() -> None:
    assert call_with_timeout(5, lambda a: a + 1, 1) == 2
    with pytest.raises(ZeroDivisionError):
        call_with_timeout(5, lambda: 1 / 0)
    stuck = BackgroundCall.stuck
    with pytest.raises(TimedOut, match="no answer within 0 s"):
        call_with_timeout(0.05, time.sleep, 1)
    assert BackgroundCall.stuck == stuck + 1
    BackgroundCall.stuck = stuck


def test_ranks_of_one_start_share_a_key_and_another_start_has_another() -> None:
    env = dict.fromkeys(JOB_VARIABLES, "1")
    assert job_key(env) == job_key(env | {"SLURM_PROCID": "3", "RANK": "3"})
    assert len({job_key(env), *(job_key(env | {name: "2"}) for name in JOB_VARIABLES)}) == 1 + len(JOB_VARIABLES)


def test_a_host_goes_by_slurm_s_name() -> None:
    assert host_name({"SLURMD_NODENAME": "node7"}) == "node7"
    assert host_name({}) == os.uname().nodename


def test_the_hash_of_the_program_changes_with_any_file_of_it(tmp_path, monkeypatch) -> None:
    import jadeberta

    package = tmp_path / "jadeberta"
    (package / "sub").mkdir(parents=True)
    for name in ("__init__.py", "sub/a.py"):
        (package / name).write_text(f"# {name}\n")
    monkeypatch.setattr(jadeberta, "__file__", str(package / "__init__.py"))
    whole = source_hash()
    assert source_hash() == whole
    (package / "sub" / "a.py").write_text("# other\n")
    other = source_hash()
    (package / "sub" / "a.py").rename(package / "sub" / "b.py")
    assert len({whole, other, source_hash()}) == 3


def test_a_training_of_another_start_on_this_host_is_seen_and_one_of_this_start_is_not(monkeypatch) -> None:
    monkeypatch.setattr(machine, "STALE_NAMED", 10**6)  # however many other tests train beside this one
    command = [sys.executable, "-c", "import time; print(flush=True); time.sleep(60)", "jadeberta", "pretrain"]
    others = os.environ | {"SLURM_JOB_ID": "99", "MASTER_PORT": "1"}
    with (
        subprocess.Popen(command, env=others, stdout=subprocess.PIPE) as stale,
        subprocess.Popen(command, stdout=subprocess.PIPE) as own,
    ):
        try:
            for process in (stale, own):
                assert process.stdout is not None and process.stdout.readline()
            report = " ".join(machine.stale_processes())
        finally:
            stale.kill()
            own.kill()
    assert f"{stale.pid} of job 99" in report and str(own.pid) not in report


def test_the_writing_speed_leaves_nothing_behind(tmp_path) -> None:
    assert write_speed(tmp_path, "probe", 0.05) > 0
    assert list(tmp_path.iterdir()) == []
