"""What a stage holds in memory does not grow with the corpus: three times the text takes no more."""

import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
import pytest

from preprocess import compressed, packing, tokenizer, word_counts
from preprocess.comm import Comm
from preprocess.config import CorpusConfig, PreprocessConfig, SegmenterConfig
from preprocess.extract import extract
from preprocess.pack import pack
from preprocess.segment import segment
from preprocess.tokenizer import train_tokenizer
from tests.preprocess import tiny

Stage = Callable[[PreprocessConfig, Path, Comm], Any]
STAGES: list[tuple[str, Stage, dict[str, Any]]] = [
    ("extract", extract, {}),
    ("segment", segment, {}),
    ("tokenizer", train_tokenizer, {}),
    ("pack", pack, {"packing": "concat"}),
    ("pack best_fit", pack, {"packing": "best_fit"}),
]


def peaks(folder: Path, documents: int) -> dict[str, int]:
    """The most bytes that Python held in each stage, over what it held before."""
    folder.mkdir()
    with open(folder / "web.jsonl", "wb") as f:
        for n in range(documents):
            # Every document brings four words that no other has.
            own = "".join(f"{tiny.NOUNS[(n + i) % 28]}は{4 * n + i}番です。" for i in range(4))
            f.write(orjson.dumps({"text": own + "京都の大学で本を読む。" * 30}) + b"\n")
    small = {"vocab_size": 100, "heldout_documents": 4, "part_bytes": 30_000, "shard_bytes": 60_000}
    found = {}
    for name, stage, settings in STAGES:
        corpora = {"web": CorpusConfig("jsonl", str(folder / "web.jsonl"))}
        config = PreprocessConfig(corpora, SegmenterConfig("mecab", batch_sentences=50), **small | settings)
        tracemalloc.start()
        try:
            stage(config, folder / "out", Comm())
            found[name] = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
    return found


def test_three_times_the_text_takes_no_more_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module, name, value in (
        (compressed, "CHUNK_BYTES", 4096),
        (word_counts, "MAX_DISTINCT", 150),
        (word_counts, "MAX_RUNS", 3),
        (word_counts, "MAX_GROUPS", 3),
        (tokenizer, "MAX_WORDS", 100),
        (packing, "WINDOW", 64),
    ):
        monkeypatch.setattr(module, name, value)
    peaks(tmp_path / "warm", 100)  # what is imported and cached once
    once, thrice = (peaks(tmp_path / str(documents), documents) for documents in (200, 600))
    assert {name: thrice[name] / once[name] for name in once if thrice[name] > 1.25 * once[name]} == {}
