"""`bench/race.py` on generated text: from corpora to the JSON of a small race, and what it cannot do is one sentence."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from bench.race_finetune import splits
from tests.helpers import ROOT


def write_jglue(folder: Path) -> Path:
    """A few rows of JNLI's valid file and of JSTS, about ten images."""
    labels = ("entailment", "contradiction", "neutral")
    rows = [
        {
            "sentence_pair_id": str(n),
            "yjcaptions_id": f"{n}-{n}-{n + 100}",
            "sentence1": f"犬が{n}匹いる。",
            "sentence2": f"{n}匹の犬。",
        }
        for n in range(10)
    ]
    for task, split, label in (("jnli", "valid", None), ("jsts", "train", 1.5), ("jsts", "valid", 2.5)):
        path = folder / f"{task}-v1.3" / f"{split}-v1.3.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        labelled = [row | {"label": labels[n % 3] if label is None else label + n % 2} for n, row in enumerate(rows)]
        path.write_text("\n".join(map(json.dumps, labelled)) + "\n", encoding="utf-8")
    return folder


def bench(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "bench/race.py", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600)


@pytest.mark.long
def test_the_short_race_ends_with_both_contestants_judged_and_a_second_call_does_nothing_again(tmp_path: Path) -> None:
    output = tmp_path / "race.json"
    for call in range(2):
        done = bench("--directory", tmp_path / "work", "--output", output)
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
        assert done.stderr.count(": done; ") == (4 if call == 0 else 0)
    found = json.loads(output.read_text())
    assert found["complete"] and [result["contestant"] for result in found["results"]] == ["published", "sum"]
    goal, budget = (result["budgets"][-1]["flops"] for result in found["results"])
    assert 0.55 * goal < budget < 0.65 * goal
    assert (tmp_path / "work/race/report.html").is_file()
    where = ("--race", tmp_path / "work/race", "--jglue", write_jglue(tmp_path / "jglue"))
    command = [
        sys.executable,
        "bench/race_finetune.py",
        *where,
        "--rtd",
        "--tasks",
        "jsts",
        "jnli",
        "--output",
        tmp_path / "tuned.json",
    ]
    done = subprocess.run([str(word) for word in command], cwd=ROOT, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    tuned = json.loads((tmp_path / "tuned.json").read_text())
    assert {(r["task"], r["contestant"]) for r in tuned["results"]} == {
        (t, c) for t in ("jsts", "jnli") for c in ("published", "sum", "rtd")
    }
    flops = [work["flops"] for work in tuned["pretraining"].values()]
    assert max(flops) < 1.1 * min(flops)
    assert all(r["questions"] == 10 and (r["contestant"] != "published" or r["difference"] == 0) for r in tuned["results"])


def test_what_the_fine_tuning_of_a_race_lacks_is_told_before_any_training(tmp_path: Path) -> None:
    command = [sys.executable, "bench/race_finetune.py", "--race", str(tmp_path), "--jglue", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=100)
    assert done.returncode == 1 and done.stderr.startswith(f"{tmp_path}: no ") and done.stderr.count("\n") == 1
    with pytest.raises(SystemExit, match=r"one jsts-v\*/valid-v\*\.json and at most one train-v\*\.json must be there"):
        splits(tmp_path, "jsts", tmp_path)


def test_a_size_that_is_not_there_is_named(tmp_path: Path) -> None:
    (tmp_path / "shards").mkdir()
    (tmp_path / "shards/report.json").write_text("{}")
    done = bench("--directory", tmp_path, "--sizes", "9x9")
    assert done.returncode == 1 and done.stderr == "--sizes 9x9: race.yaml has 2x128, 3x192, 4x256.\n"
