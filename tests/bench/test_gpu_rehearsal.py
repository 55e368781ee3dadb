"""The whole of bench/gpu.sh on the CPU, under a Python that has nothing but torch, Triton, transformers and the wheels that are carried."""

import contextlib
import importlib.metadata as metadata
import json
import os
import re
import subprocess
import venv
from pathlib import Path

import pytest

from bench.gpu_run.stand_in import ROWS_THAT_FIT
from bench.gpu_wheels import NEEDED, pinned
from tests.helpers import ROOT

OF_THE_MACHINE = ("torch", "triton", "transformers", "setuptools", "pip")


def spelled(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def with_requirements(names: tuple[str, ...]) -> set[str]:
    """Distributions and what they require, without extras."""
    found, waiting = set[str](), [spelled(name) for name in names]
    while waiting:
        if (name := waiting.pop()) in found:
            continue
        found.add(name)
        try:
            needs = metadata.requires(name) or []
        except metadata.PackageNotFoundError:
            continue
        waiting += [spelled(re.split(r"[^A-Za-z0-9._-]", need)[0]) for need in needs if "extra ==" not in need]
    return found


def bare_site(folder: Path) -> Path:
    """A folder with links to what a bare machine with our wheels has; for an interpreter that has no packages of its own."""
    folder.mkdir()
    for name in with_requirements(OF_THE_MACHINE) | set(NEEDED):
        with contextlib.suppress(metadata.PackageNotFoundError):
            owner = metadata.distribution(name)
            for top in {file.parts[0] for file in owner.files or []} - {"..", "__pycache__"}:
                if not (folder / top).exists():
                    (folder / top).symlink_to(Path(str(owner.locate_file(top))))
    return folder


def test_every_wheel_is_pinned_and_pip_would_not_replace_torch() -> None:
    lines = pinned((ROOT / "requirements/cuda.lock").read_text(encoding="utf-8"))
    assert [line.partition("==")[0] for line in lines] == list(NEEDED)
    assert not {"torch", "triton", "transformers", "numpy", "tokenizers", "safetensors"} & set(NEEDED)
    with pytest.raises(SystemExit, match=r"cuda\.lock has no nothing-of-it"):
        pinned("orjson==1\n", ("nothing-of-it",))


@pytest.mark.long
def test_the_whole_run_works_with_the_carried_packages_alone(tmp_path) -> None:
    site = bare_site(tmp_path / "site")
    for absent in ("pyarrow", "tensorboard", "pyknp", "matplotlib"):
        assert not (site / absent).exists()
    venv.create(tmp_path / "venv", with_pip=False)  # it sees no packages, also not those of the interpreter that made it
    python = tmp_path / "venv" / "bin" / "python"
    environment = os.environ | {"PYTHON": str(python), "WHEELS": "none", "PYTHONPATH": str(site)}
    command = ["bash", "bench/gpu.sh", "--rehearse", str(tmp_path / "out")]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=850)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    (result,) = (tmp_path / "out").glob("*.json")
    assert result.stat().st_size < 40_000 and result.with_suffix(".txt").stat().st_size < 60_000
    document = json.loads(result.read_text())
    assert document["rehearsal"] and {part["state"] for part in document["parts"].values()} == {"done"}
    parts = document["parts"]
    for name, part in parts.items():
        assert name in ("facts", "tiles", "parity", "sdpa") or part["rows"], name
    assert [row["same"] for row in parts["same bits"]["rows"]] == [True, True] and parts["kernels"]["wrong"] == 0
    assert [row["ran_rows"] == row["predicted_rows"] == ROWS_THAT_FIT for row in parts["memory"]["rows"]] == [True, True]
    assert {row["way"] for row in parts["engine"]["rows"]} == {"throughput timer on", "throughput timer off"}
    assert [row["way"] for row in parts["save"]["rows"]] == ["jadeberta", "torch.save"]
    assert all(row["tokens_per_s"] > 0 for name in parts if name.startswith("step") for row in parts[name]["rows"])
