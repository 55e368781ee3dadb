"""The command on a host that lacks descriptors, or where its directory cannot be written: one sentence and no traceback."""

import resource
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers import ROOT


@pytest.fixture
def corpora(tmp_path: Path) -> Path:
    (tmp_path / "corpora").mkdir()
    (tmp_path / "corpora" / "web.jsonl").write_text('{"text": "a"}\n')
    return tmp_path / "corpora"


def extract(corpora: Path, out: Path, descriptors: int = 0) -> subprocess.CompletedProcess[str]:
    def limit() -> None:
        if descriptors:
            resource.setrlimit(resource.RLIMIT_NOFILE, (descriptors, descriptors))

    command = [sys.executable, "-m", "preprocess", "extract", "--corpora", str(corpora), "--out", str(out)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, preexec_fn=limit)


def test_a_process_without_descriptors_says_so_and_blames_no_file(corpora: Path, tmp_path: Path) -> None:
    done = extract(corpora, tmp_path / "out", descriptors=5)
    assert done.returncode == 1 and "Traceback" not in done.stderr, done.stderr
    assert "Too many open files" in done.stderr and "ulimit -n" in done.stderr and "download" not in done.stderr


def test_a_directory_that_is_a_file_is_named(corpora: Path, tmp_path: Path) -> None:
    (tmp_path / "out").write_text("a file")
    done = extract(corpora, tmp_path / "out")
    assert done.returncode == 2 and "Traceback" not in done.stderr, done.stderr
    assert f"{tmp_path / 'out'}" in done.stderr and done.stderr.count("\n") == 1
