"""A run that meets a damaged shard stops and names it, or excludes its rows, logs and counts them, as the recipe decides."""

import json
from pathlib import Path

import pytest

from jadeberta.utils.json_lines import read_jsonl
from tests.helpers import LENGTH, make_recipe, make_shards, read_metrics, run_ranks, start_ranks


def damaged_shards(folder: Path, *, checksums: bool = True) -> Path:
    """Shards of two corpora, of which cc100 has one flipped bit in its row 3; without checksums as old directories are."""
    shards = make_shards(folder, {"wikipedia": (20, 1), "cc100": (10, 1)})
    index = json.loads((shards / "index.json").read_text())
    (entry,) = index["corpora"]["cc100"]["train"]
    content = bytearray((shards / entry["file"]).read_bytes())
    content[entry["blocks"][0][1] + 3 * 2 * LENGTH + 100] ^= 1
    (shards / entry["file"]).write_bytes(content)
    if not checksums:
        for corpus in index["corpora"].values():
            for each in corpus["train"] + corpus["valid"]:
                del each["sums_sha256"]
        (shards / "index.json").write_text(json.dumps(index))
        for path in shards.glob("*.sums"):
            path.unlink()
    return shards


def train(tmp_path: Path, shards: Path, steps: int, damaged: str) -> tuple[list[int], str]:
    changes = {
        "training": {"max_steps": steps, "global_batch_size": 6, "micro_batch_size": 3},
        "checkpoint": {"every_steps": 1000},
    }
    recipe = make_recipe(tmp_path / "recipe.yaml", shards, tmp_path / "run", data={"damaged": damaged, "workers": 1}, **changes)
    processes = start_ranks(2, "pretrain", "--config", str(recipe), log=tmp_path / "log")
    try:
        statuses = [p.wait(180) for p in processes]
    finally:
        for p in processes:
            p.kill()
    return statuses, "".join((tmp_path / f"log.{rank}.log").read_text() for rank in range(2))


@pytest.mark.slow
def test_a_damaged_row_ends_the_run_before_it_is_trained_on_and_is_named(tmp_path) -> None:
    statuses, printed = train(tmp_path, damaged_shards(tmp_path / "shards"), 10, "stop")
    assert 1 in statuses and set(statuses) <= {1, 12}
    assert "cc100-00000.tar" in printed and "row 3" in printed
    stops = [row for row in read_jsonl(tmp_path / "run/ledger.jsonl") if row["event"] == "stop"]
    assert stops and "cc100-00000.tar" in stops[0]["reason"]


@pytest.mark.slow
def test_excluded_its_row_is_padding_logged_and_counted_and_the_run_ends_well(tmp_path) -> None:
    shards = damaged_shards(tmp_path / "shards")
    statuses, printed = train(tmp_path, shards, 10, "exclude")  # two epochs: the row comes twice
    assert statuses == [0, 0], printed
    excluded = [row for row in read_jsonl(tmp_path / "run/ledger.jsonl") if row["event"] == "set_aside"]
    assert [(row["file"], row["row"], row["whole_shard"]) for row in excluded] == [("cc100-00000.tar", 3, False)] * 2
    counted = {row["step"]: row["set_aside"] for row in read_metrics(tmp_path / "run")}
    assert sum(counted.values()) == 2 and all(counted[row["step"]] for row in excluded)
    sound = make_shards(tmp_path / "sound", {"wikipedia": (20, 1), "cc100": (10, 1)})
    recipe = make_recipe(
        tmp_path / "sound.yaml",
        sound,
        tmp_path / "sound-run",
        training={"max_steps": 10, "global_batch_size": 6, "micro_batch_size": 3},
    )
    run_ranks(2, "pretrain", "--config", str(recipe), log=tmp_path / "sound")
    for with_it, without in zip(read_metrics(tmp_path / "sound-run"), read_metrics(tmp_path / "run"), strict=True):
        assert (with_it["batch_hash"] == without["batch_hash"]) and (
            (with_it["masked_tokens"] > without["masked_tokens"]) == bool(counted[without["step"]])
        )


@pytest.mark.slow
@pytest.mark.parametrize("policy", ["stop", pytest.param("exclude", marks=pytest.mark.long)])
def test_without_checksums_the_damage_is_found_beside_the_training_and_all_ranks_act_on_it(tmp_path, policy) -> None:
    shards = damaged_shards(tmp_path / "shards", checksums=False)
    statuses, printed = train(tmp_path, shards, 200, policy)
    rows = read_jsonl(tmp_path / "run/ledger.jsonl")
    if policy == "stop":
        assert statuses == [1, 1] and "cc100-00000.tar" in printed and "sha256" in printed and "Traceback" not in printed
        assert any(row["event"] == "stop" and "cc100-00000.tar" in row["reason"] for row in rows)
    else:
        assert statuses == [0, 0], printed
        (row,) = [row for row in rows if row["event"] == "set_aside"]
        assert (row["file"], row["whole_shard"], row["sequences"]) == ("cc100-00000.tar", True, 10)
        assert read_metrics(tmp_path / "run")[-1]["set_aside"] + read_metrics(tmp_path / "run")[-2]["set_aside"] > 0
