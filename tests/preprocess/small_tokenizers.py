"""Small tokenizers in the layouts of public ones, trained on a few sentences within a second."""

import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import sentencepiece
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from tests.preprocess.tiny_corpus import NOUNS, VERBS

TEXTS = [
    f"{a}の{b}で{c}を{VERBS[n % len(VERBS)]}。 No.{n} Kyoto university, {n * 37}円"
    for n, (a, b, c) in enumerate(zip(NOUNS * 8, NOUNS[5:] * 9, NOUNS[11:] * 12, strict=False))
]


def train_model(**options: Any) -> bytes:
    """Content of a small sentencepiece model; by default unigram with byte fallback and no rules."""
    model = io.BytesIO()
    defaults: dict[str, Any] = {
        "vocab_size": 420, "byte_fallback": True, "character_coverage": 1.0, "normalization_rule_name": "identity", "minloglevel": 2,
        "num_threads": 1,
    }  # fmt: skip
    sentencepiece.SentencePieceTrainer.train(sentence_iterator=iter(TEXTS), model_writer=model, **(defaults | options))
    return model.getvalue()


def _write(folder: Path, **documents: Any) -> Path:
    for name, document in documents.items():
        (folder / f"{name}.json").write_text(json.dumps(document, ensure_ascii=False), encoding="utf-8")
    return folder


def ku_nlp_v3(folder: Path) -> Path:
    """Unigram of raw text with byte fallback, [CLS] [SEP] [MASK] by name: ku-nlp's DeBERTa V3."""
    model = train_model(pad_id=0, pad_piece="[PAD]", bos_id=1, bos_piece="[CLS]", eos_id=2, eos_piece="[SEP]", unk_id=3,
                        unk_piece="[UNK]", control_symbols="[MASK]", add_dummy_prefix=False)  # fmt: skip
    (folder / "spm.model").write_bytes(model)
    names = {"cls_token": "[CLS]", "sep_token": "[SEP]", "pad_token": "[PAD]", "unk_token": "[UNK]", "mask_token": "[MASK]"}
    return _write(folder, special_tokens_map=names)


def llm_jp(folder: Path) -> Path:
    """Unigram with byte fallback; specials with the model's name in them, user-defined: LLM-jp."""
    model = train_model(unk_id=0, unk_piece="<unk>", bos_id=1, bos_piece="<s>", eos_id=2, eos_piece="</s>", pad_id=-1,
                        user_defined_symbols="<MASK|LLM-jp>,<PAD|LLM-jp>,<CLS|LLM-jp>,<SEP|LLM-jp>")  # fmt: skip
    (folder / "tokenizer.model").write_bytes(model)
    said = {"mask_token": "<MASK|LLM-jp>", "pad_token": "<PAD|LLM-jp>", "cls_token": "<CLS|LLM-jp>", "sep_token": "<SEP|LLM-jp>"}
    return _write(folder, tokenizer_config={**said, "unk_token": "<unk>", "tokenizer_class": "PreTrainedTokenizerFast"})


def sarashina(folder: Path) -> Path:
    """BPE with byte fallback and no dummy prefix, nmt_nfkc, a mask that is user-defined: a single file."""
    model = train_model(model_type="bpe", normalization_rule_name="nmt_nfkc", add_dummy_prefix=False, split_digits=True,
                        remove_extra_whitespaces=False, user_defined_symbols="<mask>", pad_id=3)  # fmt: skip
    path = folder / "sarashina.model"
    path.write_bytes(model)
    return path


def spm_words(folder: Path) -> Path:
    """Unigram without byte fallback, with a dummy prefix: the kind that is trained here, as a single file."""
    model = train_model(byte_fallback=False, vocab_size=200, character_coverage=0.98, control_symbols="<mask>", pad_id=3)
    path = folder / "words.model"
    path.write_bytes(model)
    return path


def _save(folder: Path, tokenizer: Tokenizer, **names: str) -> Path:
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names).save_pretrained(folder)
    return folder


def tohoku(folder: Path) -> Path:
    """WordPiece of characters and words: cl-tohoku's BERT."""
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=False, strip_accents=False)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    specials = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    tokenizer.train_from_iterator(TEXTS, trainers.WordPieceTrainer(vocab_size=300, special_tokens=specials, show_progress=False))
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    return _save(
        folder, tokenizer, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]", mask_token="[MASK]"
    )


def modernbert(folder: Path) -> Path:
    """Byte-level BPE with specials behind the text's tokens, as in GPT: ModernBERT."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(TEXTS, trainers.BpeTrainer(vocab_size=400, initial_alphabet=alphabet, show_progress=False))
    tokenizer.add_special_tokens(["[UNK]", "[CLS]", "[SEP]", "[PAD]", "[MASK]"])
    tokenizer.add_tokens([AddedToken("    ", normalized=True)])
    return _save(
        folder, tokenizer, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]", mask_token="[MASK]"
    )


def xlm_r(folder: Path) -> Path:
    """Unigram with <s> </s> in front and <mask> at the end: XLM-R and mDeBERTa."""
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Replace("  ", " ")])
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="always")
    tokenizer.decoder = decoders.Metaspace()
    specials = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    trainer = trainers.UnigramTrainer(vocab_size=250, special_tokens=specials[:-1], unk_token="<unk>", show_progress=False)
    tokenizer.train_from_iterator(TEXTS, trainer)
    tokenizer.add_special_tokens([AddedToken("<mask>", lstrip=True)])
    tokenizer.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0), trim_offsets=True, add_prefix_space=True)
    return _save(
        folder, tokenizer, bos_token="<s>", cls_token="<s>", eos_token="</s>", sep_token="</s>", pad_token="<pad>",
        unk_token="<unk>", mask_token="<mask>",
    )  # fmt: skip


LAYOUTS: dict[str, Callable[[Path], Path]] = {
    f.__name__: f for f in (ku_nlp_v3, llm_jp, sarashina, spm_words, tohoku, modernbert, xlm_r)
}


def copied(path: Path, to: Path) -> Path:
    """A copy of a tokenizer, to be changed."""
    return Path(shutil.copytree(path, to) if path.is_dir() else shutil.copy(path, to))
