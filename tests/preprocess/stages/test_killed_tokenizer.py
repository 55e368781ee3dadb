"""SIGKILL in the middle of the stages tokenizer and pack: the same command goes on to the same bytes, for each kind of tokenizer."""

import os
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest

from preprocess.config import PreprocessConfig, SegmenterConfig
from preprocess.executors.executor import Executor
from preprocess.stages.extract import extract
from preprocess.stages.pack import pack
from preprocess.stages.segment import segment
from preprocess.stages.tokenizer import train_tokenizer
from preprocess.written_files import remove_leftovers
from tests.preprocess import small_tokenizers as small
from tests.preprocess import tiny_corpus as tiny

PLAIN = SegmenterConfig("none")


def work(config: PreprocessConfig, out: Path) -> dict[str, bytes]:
    """Runs both stages; returns what they wrote but scratch files and logs."""
    for stage in (train_tokenizer, pack):
        stage(config, out, Executor())
    remove_leftovers(out)  # as the command does at its end
    found = {path.relative_to(out).as_posix(): path for path in out.rglob("*") if path.is_file()}
    return {name: path.read_bytes() for name, path in found.items() if not name.startswith("work/documents")}


def killed_at_file(number: int, config: PreprocessConfig, out: Path) -> bool:
    """Runs both stages in a process that is killed in place of its n-th rename; False: it ended before."""
    child = os.fork()
    if child == 0:
        rename, left = Path.replace, [number]

        def dies(self: Path, target: Any) -> Path:
            left[0] -= 1
            if left[0] < 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return rename(self, target)

        Path.replace = dies  # type: ignore[method-assign]
        try:
            work(config, out)
        finally:
            os._exit(0)
    _, status = os.waitpid(child, 0)
    return os.WIFSIGNALED(status)


@pytest.mark.parametrize("kind", ["given", "bpe of text"])
def test_stages_killed_at_any_file_go_on_to_the_same_bytes(tmp_path: Path, kind: str) -> None:
    corpora = tiny.write_corpora(tmp_path / "corpora")
    settings: dict[str, Any] = {"model_type": "bpe", "byte_fallback": True, "vocab_size": 420}
    if kind == "given":
        (tmp_path / "given").mkdir()
        settings = {"tokenizer": str(small.modernbert(tmp_path / "given")), "sequence_length": [128, 512], "packing": "best_fit"}
    config = tiny.configure(corpora, segmenter=PLAIN, **settings)
    for stage in (extract, segment):
        stage(config, tmp_path / "out", Executor())
    expected = work(config, shutil.copytree(tmp_path / "out", tmp_path / "whole"))
    kills = sum(killed_at_file(number, config, tmp_path / "out") for number in (0, 2, 4, 5, 3, 6, 1))
    assert kills >= 4
    assert work(config, tmp_path / "out") == expected
