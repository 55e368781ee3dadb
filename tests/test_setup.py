"""`make setup` gives users the packages of a lock file and no tools for development, and shows how far it is."""

import importlib.util
import re
from pathlib import Path
from types import ModuleType

import pytest

from tests.helpers import ROOT


def script(name: str) -> ModuleType:
    """A script of requirements/, which is no package."""
    spec = importlib.util.spec_from_file_location(f"requirements_{name}", ROOT / "requirements" / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_users_get_what_the_dependencies_lead_to_with_their_extras_and_markers_and_nothing_else() -> None:
    requires = {
        "torch": ["sympy", "nvidia-cublas; platform_system == 'Linux'", "optree; extra == 'optree'", "absent; python_version < '3'"],
        "sympy": ["mpmath"], "jsonargparse": ["PyYAML; extra == 'yaml'"], "PyYAML": [], "mpmath": ["sympy"], "nvidia-cublas": [],
        "pytest": ["pluggy"], "pluggy": [], "optree": [],
    }  # fmt: skip
    items = [{"metadata": {"name": name, "requires_dist": lines}} for name, lines in requires.items()]
    found = script("lock").needed_by(["torch==2.13.0", "jsonargparse[yaml]>=4"], items)
    assert found == {"torch", "sympy", "mpmath", "nvidia-cublas", "jsonargparse", "pyyaml"}


@pytest.mark.parametrize(
    ("said", "line"),
    [
        ("", "cpu.lock: starting"),
        ("Collecting torch==2.13.0+cpu\n  Downloading torch-2.13.0%2Bcpu-cp311.whl (191.8 MB)\n",
         "cpu.lock: 1 of 3 packages, downloading torch-2.13.0%2Bcpu-cp311.whl (191.8 MB)"),
        ("Collecting six==1\nDEPRECATION: jumandic is being installed the old way.\n", "cpu.lock: 1 of 3 packages, collecting six==1"),
        ("Collecting six==1\nInstalling collected packages: six, numpy, torch\n", "cpu.lock: 2 of 3 packages are in place"),
    ],
)  # fmt: skip
def test_the_progress_of_pip_is_one_line_without_its_remarks(tmp_path: Path, monkeypatch, said: str, line: str) -> None:
    install = script("install")
    monkeypatch.setattr(install, "LOG", tmp_path / "setup.log")
    monkeypatch.setattr(install, "site_packages", lambda: tmp_path)
    for name in ("six-1.dist-info", "Numpy-2.4.dist-info", "pip-23.dist-info"):
        (tmp_path / name).mkdir()
    (tmp_path / "setup.log").write_text("an earlier call\n" + said)
    assert install.progress("cpu.lock", len("an earlier call\n"), dict.fromkeys(["six", "numpy", "torch"], "")) == line


def test_an_entry_of_a_lock_file_keeps_its_hashes() -> None:
    entries = script("install").entries_of("cpu.lock")
    assert re.fullmatch(r"torch==\S+\+cpu( \\\n    --hash=sha256:[0-9a-f]{64})+\n", entries["torch"])


def test_the_demo_needs_no_tools_for_development_and_the_tests_do() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    needs = dict(re.findall(r"(?m)^(_?[a-z-]+): (setup(?:-dev)?)(?: ##|$)", makefile))
    assert {name for name, need in needs.items() if need == "setup"} == {"demo", "_make-shards", "verify"}
    assert {"test", "test-long", "lint", "bench"} <= {name for name, need in needs.items() if need == "setup-dev"}
