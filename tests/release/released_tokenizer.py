"""A small tokenizer as `preprocess` leaves it, and a model of two layers to release."""

import io
from pathlib import Path

import sentencepiece

from jadeberta.shards.tokenizer_format import SPECIAL_TOKENS
from preprocess.stages.tokenizer import write_hugging_face_files

SENTENCES = (
    "京都 大学 で 自然 言語 処理 を 研究 する 。", "東京都 は 、 日本 の 首都 で ある 。", "令和 ガギ ハパン 、 ! ? Web ページ",
    "0123456789", "ABCDEFGHIJKLMNOPQRSTUVWXYZ abcdefghijklmnopqrstuvwxyz", "がぎぐげご だ で ば ぱ", "先頭 と 行 の 端 キロ 1⁄2",
)  # fmt: skip


def make_tokenizer(directory: Path, characters: bool = False) -> Path:
    """Writes all files of a tokenizer trained on SENTENCES, with `config.json`."""
    directory.mkdir(parents=True)
    model = io.BytesIO()
    kind = {"model_type": "char", "vocab_size": 120, "hard_vocab_limit": False} if characters else {"vocab_size": 140}
    pad, cls, sep, unk, mask = SPECIAL_TOKENS
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(SENTENCES), model_writer=model, minloglevel=2, character_coverage=1.0, pad_id=0, pad_piece=pad,
        normalization_rule_name="identity", bos_id=1, bos_piece=cls, eos_id=2, eos_piece=sep, unk_id=3, unk_piece=unk,
        control_symbols=mask, **{"hard_vocab_limit": False, **kind},
    )  # fmt: skip
    (directory / "spm.model").write_bytes(model.getvalue())
    write_hugging_face_files(directory, characters)
    return directory
