"""What a stage holds in memory does not grow with the corpus: three times the text takes no more."""

import gc
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
import pytest

from preprocess import compressed
from preprocess.config import CorpusConfig, PreprocessConfig, SegmenterConfig
from preprocess.executors.executor import Executor
from preprocess.stages import tokenizer
from preprocess.stages.extract import extract
from preprocess.stages.pack import pack
from preprocess.stages.segment import segment
from preprocess.stages.tokenizer import train_tokenizer
from preprocess.tokenization import packing, word_counts
from tests.preprocess import tiny_corpus as tiny

Stage = Callable[[PreprocessConfig, Path, Executor], Any]
STAGES: list[tuple[str, Stage, dict[str, Any]]] = [
    ("extract", extract, {}),
    ("segment", segment, {}),
    ("tokenizer", train_tokenizer, {}),
    ("pack", pack, {"packing": "concat"}),
    ("pack best_fit", pack, {"packing": "best_fit"}),
    ("pack two lengths", pack, {"packing": "best_fit", "sequence_length": [128, 256]}),
]


def peaks(folder: Path, documents: int) -> dict[str, int]:
    """The most bytes that Python held in each stage, over what it held before."""
    folder.mkdir()
    with open(folder / "web.jsonl", "wb") as f:
        for n in range(documents):
            # Every document brings thirty words that no other has.
            own = "".join(f"{tiny.NOUNS[(n + i) % 28]}は{30 * n + i}番です。" for i in range(30))
            f.write(orjson.dumps({"text": own + "京都の大学で本を読む。" * 30}) + b"\n")
    small = {"vocab_size": 80, "heldout_documents": 4, "part_bytes": 30_000, "shard_bytes": 60_000}
    found = {}
    for name, stage, settings in STAGES:
        corpora = {"web": CorpusConfig("jsonl", str(folder / "web.jsonl"))}
        config = PreprocessConfig(corpora, SegmenterConfig("mecab", batch_sentences=50), **small | settings)
        gc.collect()
        tracemalloc.start()
        try:
            stage(config, folder / "out", Executor())
            found[name] = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
    return found


def test_three_times_the_text_takes_no_more_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module, name, value in (
        (compressed, "CHUNK_BYTES", 4096),
        (word_counts, "MAX_DISTINCT", 150),
        (word_counts, "MAX_RUNS", 3),
        (word_counts, "WORDS_A_LINE", 5),
        (word_counts, "MAX_GROUPS", 3),
        (tokenizer, "MAX_WORDS", 100),
        (packing, "WINDOW", 64),
    ):
        monkeypatch.setattr(module, name, value)
    peaks(tmp_path / "first", 20)  # imports and caches, which do not depend on the text
    once, thrice = (peaks(tmp_path / str(documents), documents) for documents in (100, 300))
    # zstd unpacks a whole block of 128 KiB, which the smaller text does not fill; what held all words would take over three times as much.
    assert {name: thrice[name] / once[name] for name in once if thrice[name] > 1.6 * once[name]} == {}
