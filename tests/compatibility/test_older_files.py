"""Shards, checkpoints and run directories that older versions wrote still load, resume and report.

`shards.tar.zst` and `run.tar.zst` were written by commit 0565aa9 of November 2026: 13 training rows, and a run with two attempts of one
and two ranks with checkpoints at steps 2 and 4. The expected values below were read, or trained on to step 6, by that commit too.
"""

import hashlib
import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
import zstandard

import jadeberta.shards
from jadeberta.checkpoint.consolidate import Weights, consolidate_weights
from jadeberta.checkpoint.manifest import list_checkpoints, verify
from jadeberta.model import load
from jadeberta.shards.verify import verify as verify_shards
from jadeberta.utils.json_lines import read_jsonl
from tests.fork_server import run_forked
from tests.helpers import read_metrics, run_ranks

HERE = Path(__file__).parent
FINGERPRINT = "fb086663e7455943cd3f04937f5a7d5de25a52167299e898c6429572d7b65c71"
ROWS = {
    "train": (13, "75f04616e928e972e78df364fabff7db8bee7a1420c42999b78cb3329690a8eb"),
    "valid": (6, "77792a61254c5eab3cf8ac24dedfe857948a073652071b89b7edfb6794daaeff"),
}
WEIGHTS = {
    (2, "trained"): "4508de47e7f3b292390c2453355b66f86a4f2a376b2df09ab4055c12015803ea",
    (2, "ema"): "760e863182f550c2d20fa4c827dca6935f5aef667bbc63e7d2843ee7970de379",
    (4, "trained"): "e0a6ae8cf11688e314390a9cde8f46de10598716448a4d152ba87d350587ea82",
    (4, "ema"): "177aaa7b830d870ccbd07daa73642c26812e1f5bb8660d0d3feb25acafa55f9c",
}
UNBROKEN_BATCHES = [
    "e9fa68f679f0320a", "17f046acfd22a165", "e3bf1dfa7e16b23f", "ff82e2c876404690", "f9044d0414bc1568", "e1b79d39937a3b5b",
]  # fmt: skip
"""batch_hash of steps 1 to 6 of an unbroken run."""
RESUMED_LOSSES = [4.162868414984809, 4.158823119269477]
"""Losses of steps 5 and 6, resumed from step 4 on one rank."""


def unpack(name: str, folder: Path) -> Path:
    content = zstandard.ZstdDecompressor().decompressobj().decompress((HERE / f"{name}.tar.zst").read_bytes())
    with tarfile.open(fileobj=io.BytesIO(content)) as tar:
        tar.extractall(folder, filter="data")
    return folder / name


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    return unpack("shards", tmp_path)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return unpack("run", tmp_path)


@pytest.mark.parametrize("split", ["train", "valid"])
def test_the_rows_of_older_shards_are_read_as_they_were_written(shards: Path, split) -> None:
    reader = jadeberta.shards.open(shards, split)
    tokens, documents = reader.rows(np.arange(len(reader)))
    found = hashlib.sha256(tokens.astype("<u2").tobytes() + documents.astype("<u2").tobytes()).hexdigest()
    assert (len(reader), found) == ROWS[split]
    assert reader.index.fingerprint == FINGERPRINT


def test_older_shards_verify_and_their_checksums_find_a_flipped_bit(shards: Path) -> None:
    assert verify_shards(shards) == []
    tar = shards / "web-00000.tar"
    content = bytearray(tar.read_bytes())
    content[4000] ^= 1
    tar.write_bytes(content)
    (fault,) = verify_shards(shards)
    assert "web-00000.tar: sha256 differs" in fault and "not what was written: row " in fault


def test_older_checkpoints_verify_and_hold_the_same_weights(run: Path) -> None:
    found = list_checkpoints(run / "checkpoints")
    assert [directory.name for directory in found] == ["step-00000002", "step-00000004"]
    kinds: tuple[Weights, ...] = ("trained", "ema")
    for directory in found:
        assert verify(directory) == []
        assert sum(parameter.numel() for parameter in load(directory).parameters()) > 1000
        for kind in kinds:
            digest, weights = hashlib.sha256(), consolidate_weights(directory, kind)
            for name in sorted(weights):
                digest.update(name.encode() + weights[name].numpy().tobytes())
            assert digest.hexdigest() == WEIGHTS[int(directory.name[-1]), kind]


def test_an_older_run_resumes_with_its_own_recipe_and_goes_on_as_the_older_version_did(run: Path, shards: Path, tmp_path) -> None:
    recipe = (run / "recipe.yaml").read_text()
    # Old keys and values; newer ones stand beside them.
    assert "damaged: set_aside" in recipe and "fruitless_lives: 4" in recipe and "max_skipped_in_row: 4" in recipe
    (tmp_path / "recipe.yaml").write_text(recipe)
    options = ["--run.dir", str(run), "--data.shards", str(shards), "--training.max_steps", "6", "--resume", "required"]
    run_ranks(1, "pretrain", "--config", str(tmp_path / "recipe.yaml"), *options, log=tmp_path / "log")
    metrics = read_metrics(run)
    assert [row["step"] for row in metrics] == [1, 2, 3, 4, 5, 6]
    assert [row["batch_hash"] for row in metrics] == UNBROKEN_BATCHES
    assert [row["loss"] for row in metrics[4:]] == pytest.approx(RESUMED_LOSSES, rel=1e-5)
    assert [row["life"] for row in metrics] == [0, 0, 1, 1, 2, 2] and [row["attempt"] for row in metrics[4:]] == [2, 2]
    events = [row for row in read_jsonl(run / "ledger.jsonl") if row["life"] == 2]
    assert [row["step"] for row in events if row["event"] == "resume"] == [4]
    assert verify(run / "checkpoints/step-00000006") == []


def test_the_status_of_an_older_run_counts_its_attempts_and_steps(run: Path) -> None:
    result = run_forked("status", run, "--json")
    assert result.returncode == 0, result.stderr
    status = json.loads(result.stdout)
    counts = {key: status[key] for key in ("state", "step", "steps", "tokens", "saves", "failed_saves", "failures", "rollbacks")}
    assert counts == {
        "state": "done", "step": 4, "steps": 4, "tokens": 8080, "saves": 2, "failed_saves": 0, "failures": 0, "rollbacks": 0
    }  # fmt: skip
    assert [(a["number"], a["ended"], a["first_step"], a["last_step"]) for a in status["attempts"]] == [
        (0, "done", 1, 2),
        (1, "done", 3, 4),
    ]
    assert status["lives"] == status["attempts"] and status["loss"] == pytest.approx(4.163044529159966)
    assert status["wall_s"] == pytest.approx(50.75544357299805) and status["goodput"] == pytest.approx(0.025146228564912547)
