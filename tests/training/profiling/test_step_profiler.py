"""The file PROFILE: some steps of some ranks are profiled, the training computes what it did without, and no disk ends it."""

import errno
import gzip
import logging
import os
from collections.abc import Iterator
from pathlib import Path

import orjson
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from jadeberta.errors import RequeueRequested, StopRequested
from jadeberta.training.control import RankFlags, RunControl
from jadeberta.training.loop import RollBack
from jadeberta.training.profiling import step_profiler
from jadeberta.training.profiling.step_profiler import STEPS, StepProfiler, read_request
from jadeberta.utils.json_lines import read_jsonl
from tests.helpers import make_recipe, make_shards, printed_by, read_metrics, run_ranks
from tests.training.loop_fakes import LoopRun


@pytest.mark.parametrize(
    ("content", "ranks"),
    [("", [0]), (" \n", [0]), ("3", [3]), ("2, 0-1\n7", [0, 1, 2, 7]), ("all", list(range(8))), ("0-7 3", list(range(8)))],
)
def test_the_file_names_ranks_and_an_empty_one_means_rank_0(tmp_path, content, ranks) -> None:
    (tmp_path / "PROFILE").write_text(content)
    assert read_request(tmp_path / "PROFILE", 8) == ranks


@pytest.mark.parametrize("content", ["8", "3-1", "-1", "rank 2", "1-", "0-99999999999999999999", "\ud800", "²", "0-1-2"])
def test_what_names_no_rank_of_the_job_is_refused_in_one_sentence(tmp_path, content) -> None:
    (tmp_path / "PROFILE").write_bytes(content.encode(errors="surrogatepass"))
    with pytest.raises(
        ValueError, match=r"PROFILE: .* names no rank of this job; write numbers from 0 to 7, .* or leave the file empty"
    ):
        read_request(tmp_path / "PROFILE", 8)


def test_a_folder_a_pipe_and_a_link_to_nothing_ask_for_rank_0_and_nobody_waits(tmp_path) -> None:
    for make in (Path.mkdir, os.mkfifo, lambda path: path.symlink_to("nowhere")):
        path = tmp_path / f"PROFILE{len(list(tmp_path.iterdir()))}"
        make(path)
        assert read_request(path, 8) == [0]


def test_rank_0_alone_looks_for_the_file_and_one_that_cannot_be_removed_is_answered_once(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("jadeberta.training.control.FILE_CHECK_S", -1)
    (tmp_path / "PROFILE").mkdir()
    root, other = RunControl(tmp_path, True, max_hours=0), RunControl(tmp_path, False, max_hours=0)
    assert root.flags() == RankFlags(profile=1) and other.flags() == RankFlags()
    root.clear("PROFILE")
    assert root.flags() == RankFlags()


def test_all_ranks_begin_at_the_step_whose_all_reduce_carried_the_request_and_end_before_the_run_ends() -> None:
    job = LoopRun(flags={2: RankFlags(profile=1)})
    job.run()
    assert job.calls.index("step 2") < job.calls.index("profile after 2") < job.calls.index("step 3")
    assert job.calls.count("profile after 2") == 1 and job.ended_profiles == [4]
    for flags, error in ((RankFlags(stop=1), StopRequested), (RankFlags(requeue=1), RequeueRequested)):
        job = LoopRun(flags={3: flags})
        job.ends_with(error)
        assert job.ended_profiles == [3]
    job = LoopRun(skipped={1, 2})
    job.ends_with(RollBack)
    assert job.ended_profiles == [2]


@pytest.fixture
def messages() -> Iterator[list[str]]:
    """Messages of the profiler's logger."""
    found: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: found.append(record.getMessage())  # type: ignore[method-assign]
    logger = logging.getLogger(step_profiler.__name__)
    logger.addHandler(handler)
    yield found
    logger.removeHandler(handler)


def profile(profiler: StepProfiler, steps: int, ranks: list[int]) -> int:
    """Some steps under a profiler that is asked after step 4; returns the number of steps that were profiled."""
    profiler.begin(4, ranks)
    for _ in range(steps):
        torch.ones(4, 4) @ torch.ones(4, 4)
        if profiler.is_last():
            break
    return profiler.end()


def test_a_trace_holds_the_work_of_the_steps_and_a_rank_that_is_not_named_writes_none(tmp_path, messages) -> None:
    profiler = StepProfiler(tmp_path, 2, torch.device("cpu"))
    assert profile(profiler, 10, [0, 2]) == STEPS and not profiler.is_on
    assert profile(StepProfiler(tmp_path, 1, torch.device("cpu")), 10, [0, 2]) == STEPS
    (trace,) = (tmp_path / "profiles").iterdir()
    assert trace.name == "step-00000005-rank-00002.json.gz"
    events = orjson.loads(gzip.decompress(trace.read_bytes()))["traceEvents"]
    assert sum(event.get("name") == "aten::mm" for event in events) == STEPS
    assert profile(profiler, 1, [2]) == 1 and profile(profiler, 0, [2]) == 0 and messages == []


@pytest.mark.parametrize("fault", ["full", "cut", "no folder", "no profiler"])
def test_a_trace_that_cannot_be_taken_or_written_costs_one_sentence_and_leaves_no_part_of_it(
    tmp_path, monkeypatch, messages, fault
) -> None:
    def export(self, path: str) -> None:
        Path(path).write_text('{"traceEvents": [{"name": "aten::')
        if fault == "full":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    if fault == "no folder":
        (tmp_path / "profiles").write_text("a file")
    elif fault == "no profiler":
        monkeypatch.setattr(torch.profiler.profile, "start", lambda self: 1 / 0)
    else:
        monkeypatch.setattr(torch.profiler.profile, "export_chrome_trace", export)
    profiler = StepProfiler(tmp_path, 0, torch.device("cpu"))
    assert profile(profiler, 5, [0]) == STEPS and not profiler.is_on
    said = {
        "full": "cannot be written (No space left on device); the training goes on",
        "cut": "cannot be written (the disk did not take all of it); the training goes on",
        "no folder": "cannot be written (File exists); the training goes on",
        "no profiler": "the profiler cannot be started (ZeroDivisionError: division by zero)",
    }
    assert len(messages) == 1 and said[fault] in messages[0]
    assert not (tmp_path / "profiles").is_dir() or list((tmp_path / "profiles").iterdir()) == []


def test_on_cuda_a_snapshot_of_the_memory_lies_beside_the_trace_and_its_history_is_ended(tmp_path, monkeypatch) -> None:
    history: list[dict] = []
    monkeypatch.setattr(torch.cuda.memory, "_record_memory_history", lambda **options: history.append(options))
    monkeypatch.setattr(torch.cuda.memory, "_dump_snapshot", lambda path: Path(path).write_bytes(b"snapshot"))
    monkeypatch.setattr(StepProfiler, "_kinds", lambda self: [torch.profiler.ProfilerActivity.CPU])  # no device here to ask
    profile(StepProfiler(tmp_path, 0, torch.device("cuda")), 5, [0])
    names = sorted(path.name for path in (tmp_path / "profiles").iterdir())
    assert names == ["step-00000005-rank-00000.json.gz", "step-00000005-rank-00000.memory.pickle"]
    assert history == [{"max_entries": step_profiler.MEMORY_ENTRIES}, {"enabled": None}]


@pytest.mark.long
def test_two_ranks_train_the_same_bits_with_a_profile_of_one_of_them_and_with_tensorboard(tmp_path) -> None:
    shards = make_shards(tmp_path / "shards", {"wikipedia": (20, 3)})
    weights = []
    for name in ("plain", "profiled"):
        folder = tmp_path / name
        recipe = make_recipe(
            tmp_path / f"{name}.yaml",
            shards,
            folder,
            training={"max_steps": 6, "global_batch_size": 2},
            checkpoint={"every_steps": 6},
            **({"logging": {"tensorboard": True}, "evaluation": {"every_steps": 3}} if name == "profiled" else {}),
        )
        folder.mkdir()
        if name == "profiled":
            (folder / "PROFILE").write_text("1")
        run_ranks(2, "pretrain", "--config", str(recipe), log=tmp_path / f"{name}-log")
        files = sorted((folder / "checkpoints/step-00000006").glob("*.safetensors"))
        weights.append([path.read_bytes() for path in files])
    assert weights[0] == weights[1] != []
    losses = [[(row["loss"], row["grad_norm"]) for row in read_metrics(tmp_path / name)] for name in ("plain", "profiled")]
    assert losses[0] == losses[1]
    assert [path.name for path in (tmp_path / "profiled/profiles").iterdir()] == ["step-00000002-rank-00001.json.gz"]
    assert not (tmp_path / "profiled/PROFILE").exists() and not (tmp_path / "plain/profiles").exists()
    (event,) = (row for row in read_jsonl(tmp_path / "profiled/ledger.jsonl") if row["event"] == "profile")
    assert (event["step"], event["steps"], event["ranks"]) == (4, 3, [1])
    printed = printed_by(tmp_path / "profiled-log")
    assert "step 4: profiled the last 3 steps of rank 1" in printed and "Traceback" not in printed
    board = EventAccumulator(str(tmp_path / "profiled/tensorboard")).Reload()
    assert [point.step for point in board.Scalars("held_out/accuracy/wikipedia")] == [3, 6]
    assert {point.step for point in board.Scalars("train/grad_norm")} == set(range(1, 7))
    assert {"events/start", "events/evaluation", "events/profile", "events/save", "events/done"} <= set(board.Tags()["tensors"])
