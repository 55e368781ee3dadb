"""A branch goes on from a step of another run: with its bits where nothing is changed, and with its data on other ranks."""

import json
import shutil
from pathlib import Path

import pytest

from jadeberta.utils.files import file_sha256
from jadeberta.utils.json_lines import read_jsonl
from tests.helpers import make_recipe, make_shards, read_metrics, run_ranks

CHANGES = {"training": {"max_steps": 4, "schedule": "constant"}, "checkpoint": {"every_steps": 2}}


@pytest.fixture(scope="module")
def shards(tmp_path_factory) -> Path:
    return make_shards(tmp_path_factory.mktemp("shards"), {"wikipedia": (20, 3), "cc100": (40, 1)})


@pytest.fixture(scope="module")
def source(tmp_path_factory, shards) -> Path:
    """A run of four steps on one rank, with checkpoints of the second and the fourth."""
    folder = tmp_path_factory.mktemp("source")
    recipe = make_recipe(folder / "recipe.yaml", shards, folder / "run", **CHANGES)
    run_ranks(1, "pretrain", "--config", str(recipe), log=folder / "log")
    return folder / "run"


def tree(directory: Path) -> dict[str, tuple[int, str]]:
    """Every file of a directory with its time of change and its hash."""
    return {str(p): (p.stat().st_mtime_ns, file_sha256(p)) for p in sorted(directory.rglob("*")) if p.is_file()}


def weights(checkpoint: Path) -> dict[str, str]:
    files = json.loads((checkpoint / "manifest.json").read_text())["files"]
    return {name: entry["sha256"] for name, entry in files.items() if name.endswith(".safetensors")}


def test_an_unchanged_branch_ends_with_the_bits_of_the_run_and_writes_nothing_there(shards, source, tmp_path) -> None:
    before, step = tree(source), source / "checkpoints/step-00000002"
    recipe = make_recipe(tmp_path / "recipe.yaml", shards, tmp_path / "run", **CHANGES)
    printed = run_ranks(1, "pretrain", "--config", str(recipe), "--branch-from", str(step), log=tmp_path / "log")
    assert f"branched from {step}" in printed
    last = "checkpoints/step-00000004"
    assert weights(tmp_path / "run" / last) == weights(source / last)
    assert [row["batch_hash"] for row in read_metrics(tmp_path / "run")] == [
        row["batch_hash"] for row in read_metrics(source)[2:]
    ]
    assert tree(source) == before
    (entry,) = json.loads((tmp_path / "run/lineage.json").read_text())
    assert (entry["kind"], entry["source"], entry["step"], entry["changed"]) == ("branch", str(step), 2, {})
    assert json.loads((tmp_path / "run" / last / "state.json").read_text())["lineage"] == [entry]


@pytest.mark.slow
def test_a_decay_phase_on_other_ranks_reads_the_same_data_and_a_second_start_resumes_it(shards, source, tmp_path) -> None:
    decay = {"max_steps": 4, "schedule": "wsd", "decay_steps": 2, "warmup_steps": 1}
    sections = {"training": decay, "checkpoint": {"every_steps": 1}, "deepspeed": "ds_configs/zero2.json"}
    recipe = make_recipe(tmp_path / "recipe.yaml", shards, tmp_path / "run", **sections)
    copy = tmp_path / "copy"
    shutil.copytree(source, copy)
    step = copy / "checkpoints/step-00000002"
    arguments = ("pretrain", "--config", str(recipe), "--branch-from", str(step))
    run_ranks(2, *arguments, log=tmp_path / "log")
    found, expected = read_metrics(tmp_path / "run"), read_metrics(source)[2:]
    assert [row["batch_hash"] for row in found] == [row["batch_hash"] for row in expected]
    assert [row["lr"] for row in found] == pytest.approx([1e-3, 1e-3 * (1 - 0.5**0.5)])
    shutil.rmtree(copy)  # the source is not needed any more, and a requeued job gives the option again
    longer = make_recipe(tmp_path / "recipe.yaml", shards, tmp_path / "run", **sections | {"training": decay | {"max_steps": 5}})
    printed = run_ranks(1, *arguments[:2], str(longer), *arguments[3:], log=tmp_path / "log2")
    assert "resumed from step-00000004" in printed
    events = [row["event"] for row in read_jsonl(tmp_path / "run/ledger.jsonl")]
    assert (events.count("branch"), events.count("resume")) == (1, 1)
    (entry,) = json.loads((tmp_path / "run/lineage.json").read_text())
    assert entry["changed"] == {
        "training.decay_steps": [0, 2], "training.schedule": ["constant", "wsd"], "training.warmup_steps": [2, 1],
    }  # fmt: skip
