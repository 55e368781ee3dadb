"""The benchmark of the optimizers times the update of each of them, and counts what Newton-Schulz multiplies."""

import json
import subprocess
import sys

import pytest

from jadeberta.training.optimizers.orthogonalise import multiplications
from tests.helpers import ROOT


@pytest.mark.long
def test_every_optimizer_is_timed_in_each_round(tmp_path) -> None:
    options = ["--hidden", "64", "--layers", "1", "--rows", "2", "--rounds", "2", "--output", str(tmp_path / "out.json")]
    result = subprocess.run(
        [sys.executable, "bench/optimizers.py", *options], cwd=ROOT, capture_output=True, text=True, timeout=300
    )
    assert result.returncode == 0, result.stderr[-3000:]
    document = json.loads((tmp_path / "out.json").read_text())
    assert [row["optimizer"] for row in document["optimizers"]] == ["adamw", "muon", "stable_adamw", "lion"]
    assert all(0 < row["seconds_update"] < row["seconds_step"] for row in document["optimizers"])
    assert document["hidden_matrices"] == {"count": 6, "parameters": 4 * 64 * 64 + 2 * 64 * 256}
    assert "6 hidden matrices, 256 tokens a step" in result.stdout


def test_multiplications_are_those_of_the_products() -> None:
    # Five times: the Gram matrix of the smaller side, its square, and its product with the matrix.
    for rows, columns in ((8, 8), (8, 32), (32, 8)):
        assert multiplications((rows, columns)) == 5 * (8 * 8 * max(rows, columns) + 8 * 8 * 8 + 8 * 8 * max(rows, columns))
