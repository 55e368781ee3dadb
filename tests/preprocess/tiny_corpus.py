"""A corpus of some dozens of short Japanese documents, and the four stages on it: what many tests of the stages arrange."""

import json
import random
from pathlib import Path
from typing import Any

from preprocess.config import CorpusConfig, PreprocessConfig, SegmenterConfig
from preprocess.executors.executor import Executor
from preprocess.stages.extract import extract
from preprocess.stages.pack import pack
from preprocess.stages.segment import segment
from preprocess.stages.tokenizer import train_tokenizer

NOUNS = [
    "京都", "大学", "自然", "言語", "学生", "先生", "会社", "電車", "駅", "映画", "音楽", "料理",
    "天気", "新聞", "歴史", "数学", "海", "山", "川", "空", "町", "村", "国", "本", "車",
    "犬", "猫", "花",
]  # fmt: skip
VERBS = [
    "読む", "書く", "見る", "聞く", "話す", "食べる", "飲む", "歩く", "走る", "作る",
]  # fmt: skip
# One corpus's name is the beginning of the other's.
DOCUMENTS = {"web": 60, "web-ja": 31}


def write_corpora(folder: Path) -> Path:
    """`web.jsonl` and `web-ja.jsonl`: documents of 1 to 80 sentences, each unlike the others, and one without any text in it."""
    folder.mkdir(parents=True, exist_ok=True)
    generator = random.Random(0)
    for corpus, count in DOCUMENTS.items():
        texts = []
        for number in range(count):
            sentences = [f"{number}番の文。"]
            for _ in range(generator.randrange(80)):
                a, b, c = generator.sample(NOUNS, 3)
                sentences.append(f"{a}の{b}で{c}を{generator.choice(VERBS)}。")
            texts.append("".join(sentences))
        texts[-1] = "\u200b"  # nothing is left of it
        lines = [json.dumps({"text": text}, ensure_ascii=False) for text in texts]
        (folder / f"{corpus}.jsonl").write_text("\n".join(lines), encoding="utf-8")
    return folder


def configure(corpora: Path, **settings: Any) -> PreprocessConfig:
    named = {name: CorpusConfig("jsonl", f"{corpora}/{name}.jsonl", repeats) for name, repeats in (("web", 1), ("web-ja", 3))}
    small: dict[str, Any] = {"vocab_size": 150, "heldout_documents": 4, "part_bytes": 12_000, "shard_bytes": 40_000}
    return PreprocessConfig(**(small | {"corpora": named, "segmenter": SegmenterConfig("mecab")} | settings))


def run_stages(config: PreprocessConfig, out: Path) -> Path:
    for stage in (extract, segment, train_tokenizer, pack):
        stage(config, out, Executor())
    return out
