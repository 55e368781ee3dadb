"""Every launcher takes the paths of its settings from the directory in which the user typed the command, and finds the project itself."""

import os
import subprocess
from pathlib import Path

import pytest

from tests.helpers import ROOT

SCRIPTS = ["local.sh", "mpi.sh", "torchrun.sh", "deepspeed.sh"]
STAND_IN = '#!/bin/bash\n[ "$1" != --version ] || exit 0\nprintf "%s\\n" "$PWD" "$PYTHONSAFEPATH" "$PYTHONPATH" "$0" "$@"\n'


def launched(script: str, here: Path, **settings: str) -> list[str]:
    """What the launcher started: directory, PYTHONSAFEPATH, PYTHONPATH, program, arguments."""
    env = {k: v for k, v in os.environ.items() if not k.startswith(("OMPI_", "PMI", "SLURM_", "PYTHON"))}
    done = subprocess.run([ROOT / "launch" / script], cwd=here, env=env | settings, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@pytest.fixture
def home(tmp_path) -> Path:
    (tmp_path / "bin").mkdir()
    for name in ("python", "mpirun"):
        program = tmp_path / "bin" / name
        program.write_text(STAND_IN)
        program.chmod(0o755)
    return tmp_path


@pytest.mark.parametrize("script", SCRIPTS)
def test_relative_paths_start_at_the_users_directory_and_tildes_at_home(home: Path, script: str) -> None:
    here = home / "my work"
    here.mkdir()
    settings = {"RECIPE": "mine.yaml", "RUN_DIR": "runs/one", "PYTHON": "~/bin/python", "HOME": str(home)}
    printed = launched(script, here, **settings)
    assert printed[:3] == [str(here), "1", str(ROOT)]
    assert printed[3] == str(home / "bin" / ("mpirun" if script == "mpi.sh" else "python"))
    assert printed[-4:] == ["--config", "mine.yaml", "--run.dir", "runs/one"]
    printed = launched(script, here, **(settings | {"PYTHON": "../bin/python"}))
    assert (here / printed[3]).resolve().parent == home / "bin"


@pytest.mark.parametrize("script", SCRIPTS)
def test_without_a_recipe_it_is_the_projects_from_wherever_the_launcher_is_called(home: Path, script: str) -> None:
    assert launched(script, home, PYTHON="bin/python")[-2:] == ["--config", str(ROOT / "recipes/large.yaml")]


def test_an_mpirun_that_is_not_there_is_one_sentence(home: Path) -> None:
    env = os.environ | {"PYTHON": "bin/python", "MPIRUN": "/opt/none/mpirun"}
    done = subprocess.run([ROOT / "launch/mpi.sh"], cwd=home, env=env, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (2, "MPIRUN=/opt/none/mpirun: no such program; name your cluster's mpirun.\n")
