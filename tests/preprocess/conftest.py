"""What is made once for many tests: the shards of a tiny corpus, and those of the real sample where it is at hand."""

import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from preprocess.config import PreprocessConfig
from tests.helpers import CORPORA, ROOT
from tests.preprocess import tiny_corpus as tiny


@dataclass
class Made:
    """A finished shard directory and what it was made from."""

    corpora: Path
    config: PreprocessConfig
    out: Path


@pytest.fixture(scope="session")
def tiny_shards(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """Not to be changed: tests that change it work on a copy."""
    folder = tmp_path_factory.mktemp("tiny")
    corpora = tiny.write_corpora(folder / "corpora")
    config = tiny.configure(corpora)
    return Made(corpora, config, tiny.run_stages(config, folder / "out"))


@dataclass
class Sample:
    """The real sample from end to end, by the command that users type."""

    out: Path
    printed: str
    seconds: float


@pytest.fixture(scope="session")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Sample:
    """Takes about half a minute."""
    if not CORPORA.is_dir():
        pytest.skip("the sample corpora (../shared/data/corpora beside the repository) are not here")
    out = tmp_path_factory.mktemp("sample") / "out"
    command = ["all", "--corpora", str(CORPORA), "--out", str(out), "--preprocess.segmenter.engine", "mecab"]
    began = time.monotonic()
    done = subprocess.run([sys.executable, "-m", "preprocess", *command], cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    return Sample(out, done.stdout, time.monotonic() - began)
