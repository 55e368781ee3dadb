import shutil
from pathlib import Path

import pytest

from tests.shards.damage import ROWS, write


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("shards") / "out", ROWS)


@pytest.fixture
def copied(written: Path, tmp_path: Path) -> Path:
    """A copy to damage."""
    return shutil.copytree(written, tmp_path / "copy")
