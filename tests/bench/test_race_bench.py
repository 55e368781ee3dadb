"""`bench/race.py` on generated text: from corpora to the JSON of a small race, and what it cannot do is one sentence."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers import ROOT


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


def test_a_size_that_is_not_there_is_named(tmp_path: Path) -> None:
    (tmp_path / "shards").mkdir()
    (tmp_path / "shards/report.json").write_text("{}")
    done = bench("--directory", tmp_path, "--sizes", "9x9")
    assert done.returncode == 1 and done.stderr == "--sizes 9x9: race.yaml has 2x128, 3x192, 4x256.\n"
