"""Evaluation in the middle of a run: the figures of `evaluate mlm`, no trace in the training, and a signal ends it early."""

import json
import signal
import time
from pathlib import Path

import pytest

from jadeberta.checkpoint.manifest import list_checkpoints
from jadeberta.utils.json_lines import read_jsonl
from tests.helpers import make_recipe, make_shards, run_ranks, start_ranks


def content(run: Path, step: int) -> dict:
    files = json.loads((run / f"checkpoints/step-{step:08d}/manifest.json").read_text())["files"]
    return {name: entry["sha256"] for name, entry in files.items() if name.endswith(".safetensors")}


@pytest.mark.slow
@pytest.mark.parametrize("stage,packing", [(1, "concat"), pytest.param(3, "documents", marks=pytest.mark.long)])
def test_it_gives_the_figures_of_the_command_and_leaves_no_trace(tmp_path, stage, packing) -> None:
    shards = make_shards(tmp_path / "shards", {"wikipedia": (20, 1), "cc100": (20, 1)})
    common = {"data": {"packing": packing}, "deepspeed": f"ds_configs/zero{stage}.json"}
    for name, evaluation in (("with", {"every_steps": 2, "sequences": 0}), ("without", {})):
        recipe = make_recipe(tmp_path / f"{name}.yaml", shards, tmp_path / name, evaluation=evaluation, **common)
        run_ranks(2, "pretrain", "--config", str(recipe), log=tmp_path / name)
    assert content(tmp_path / "with", 6) == content(tmp_path / "without", 6)
    found = [row for row in read_jsonl(tmp_path / "with/ledger.jsonl") if row["event"] == "evaluation"]
    assert [row["step"] for row in found] == [2, 4, 6] and all(row["whole"] for row in found)
    last = list_checkpoints(tmp_path / "with/checkpoints")[-1]
    run_ranks(1, "evaluate", "mlm", "--checkpoint", str(last), "--shards", str(shards), "--output", str(tmp_path / "figures.json"),
              log=tmp_path / "evaluate")  # fmt: skip
    expected = json.loads((tmp_path / "figures.json").read_text())["corpora"]
    for corpus, figures in found[-1]["corpora"].items():
        assert figures["masked_tokens"] == expected[corpus]["masked_tokens"]
        assert figures["loss"] == pytest.approx(expected[corpus]["loss"], rel=1e-5)
        assert figures["accuracy"] == pytest.approx(expected[corpus]["accuracy"], abs=0.01)


@pytest.mark.slow
def test_a_signal_ends_an_evaluation_and_the_run_saves_and_goes(tmp_path) -> None:
    shards = make_shards(tmp_path / "shards", {"wikipedia": (20, 1)})
    # The training rows as held-out ones, again and again under other names: an evaluation of many seconds.
    index = json.loads((shards / "index.json").read_text())
    corpus = index["corpora"]["wikipedia"]
    for n in range(600):
        entries = [entry | {"file": f"again{n}-{entry['file']}"} for entry in corpus["train"]]
        index["corpora"][f"again{n}"] = {"repeats": 0, "train": [], "valid": entries}
        for entry in corpus["train"]:
            for suffix in (".tar", ".sums"):
                name = Path(entry["file"]).with_suffix(suffix).name
                (shards / f"again{n}-{name}").hardlink_to(shards / name)
    (shards / "index.json").write_text(json.dumps(index))
    changes = {"evaluation": {"every_steps": 3, "sequences": 0}, "checkpoint": {"every_steps": 100}}
    recipe = make_recipe(tmp_path / "recipe.yaml", shards, tmp_path / "run", **changes)
    processes = start_ranks(2, "pretrain", "--config", str(recipe), log=tmp_path / "log")
    try:
        deadline = time.monotonic() + 120
        beat = tmp_path / "run/heartbeat/rank-00001.json"
        while not (beat.exists() and json.loads(beat.read_text())["phase"] == "eval"):
            assert time.monotonic() < deadline and all(p.poll() is None for p in processes), (tmp_path / "log.0.log").read_text()
            time.sleep(0.05)
        processes[1].send_signal(signal.SIGUSR1)
        assert [p.wait(60) for p in processes] == [11, 11]
    finally:
        for p in processes:
            p.kill()
    assert [p.name for p in list_checkpoints(tmp_path / "run/checkpoints")] == ["step-00000003"]
    (row,) = [row for row in read_jsonl(tmp_path / "run/ledger.jsonl") if row["event"] == "evaluation"]
    assert not row["whole"]
