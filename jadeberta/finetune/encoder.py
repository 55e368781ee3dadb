"""Encodes texts as in pre-training: normalised, segmented into words by the engine that the model names, then into sentencepiece pieces.

Each text is segmented separately and is not split into sentences, as in the published evaluation. No other engine is ever used.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from jadeberta.errors import ConfigError, InputError
from jadeberta.finetune.alignment import Span, align
from jadeberta.finetune.own_tokenizer import Frame, OwnTokenizer
from jadeberta.release.origin import reads_text
from preprocess.config import Engine, SegmenterConfig
from preprocess.segmenters import Rejected, Segmenter, open_segmenter
from preprocess.segmenters.base import LONE_SURROGATE
from preprocess.segmenters.plain import PlainText
from preprocess.text import NORMALISER, normalise
from preprocess.tokenization.encoders import open_encoder, read_tokenizer

Array = np.ndarray[Any, np.dtype[np.int32]]
AT_ONCE = 5000
"""Texts that are encoded at once: the words of 187,000 reviews would take more memory than the model."""
ENGINES: tuple[Engine, ...] = ("jumanpp", "juman", "mecab", "none")


@dataclass(frozen=True)
class Pieces:
    """A text as sentencepiece pieces."""

    ids: Array
    """int32 [pieces]"""
    spans: Array
    """int32 [pieces, 2]: the characters [start, end) of the original text that each piece covers; empty for a lone word mark."""
    rejected: str = ""
    """Reason why the segmenter returned no words; the text is then one word."""


def open_engine(origin: dict[str, Any] | None, where: Path, engine: str | None, command: str) -> tuple[Segmenter, list[str]]:
    """The word segmenter of a model's pre-training, none for a model of characters, and remarks on what differs from then.

    Args:
        origin: segmenter and normaliser of the pre-training text, None where the model does not say.
        where: the model, for messages.
        engine: what the user names; needed where the model does not say, and refused where it says otherwise.
        command: the engine's program and options, as in preprocess.segmenter.command.

    Raises:
        ConfigError: the engine is not known, or not the model's; the normaliser is not the one of this version.
        SegmenterError: the engine does not work here.
    """
    if origin is None:
        if engine is None:
            raise ConfigError(
                f"{where} does not say which word segmenter made its pre-training text. Name it with --segmenter "
                f"({', '.join(ENGINES)}; none for a model that reads text as it is); for ku-nlp's models it is jumanpp."
            )
        then: dict[str, Any] = {"engine": engine}
    else:
        then = origin["segmenter"]
        # Words of another engine would become other pieces than those that the model was trained on.
        if engine not in (None, then.get("engine")):
            raise ConfigError(
                f"{where} was pre-trained on words of {then.get('engine')}, not of {engine}. Leave --segmenter out."
            )
        if origin["normaliser"] not in (NORMALISER, "none"):
            raise ConfigError(
                f"{where} was pre-trained on text of the normaliser {origin['normaliser']}, this version has {NORMALISER}. "
                "Use the version of jadeberta that made its shards."
            )
    if then.get("engine") == "none" or (origin is not None and reads_text(origin)):
        return PlainText(), []
    if then.get("engine") not in ENGINES:
        raise ConfigError(f"{where} was pre-trained on words of {then.get('engine')!r}, which is none of {', '.join(ENGINES)}.")
    segmenter = open_segmenter(SegmenterConfig(engine=then["engine"], command=command))
    now = segmenter.description
    remarks = [
        f"the {then['engine']} here has {key} {now.get(key)!r}, the pre-training text was made with {then[key]!r}"
        for key in ("version", "dictionary")
        if key in then and then[key] != now.get(key)
    ]
    return segmenter, remarks


class Encoder:
    """Texts to pieces of the model's own tokenizer: a '[MASK]' in a text stays text, as in pre-training."""

    def __init__(
        self, tokenizer_file: Path, segmenter: Segmenter, keeps_text: bool = False, own: OwnTokenizer | None = None
    ) -> None:
        """Args:
        tokenizer_file: the file that gives the ids; what names its special tokens lies beside it.
        segmenter: that of the pre-training.
        keeps_text: whether texts are encoded as they are, not normalised.
        own: the tokenizer of a model from elsewhere, instead of the file.

        Raises:
            InputError: the tokenizer is missing, damaged, or lacks special tokens.
        """
        try:
            files = own.files if own else read_tokenizer(tokenizer_file.parent, tokenizer_file.name)
            self._encoder = open_encoder(files)
        except ConfigError as e:
            raise InputError(f"{e} Name an exported directory.") from e
        self.segmenter, self.keeps_text = segmenter, keeps_text
        special = self._encoder.special
        self.pad, self.cls, self.sep = special.pad, special.cls, special.sep
        self.frame = own.frame if own else Frame((special.cls,), (special.sep,), (special.sep,))
        # Without an id for padding that the tokenizer lacks: its model need not have one, as attention sees no padding.
        self.vocab_size = self._encoder.vocab_size - (self._encoder.name_of(special.pad) is None)

    def __call__(self, texts: Iterable[str]) -> dict[str, Pieces]:
        """Every distinct text with its pieces."""
        found: dict[str, Pieces] = {}
        # JSQuAD asks several questions about one context; it is segmented once.
        distinct = iter(dict.fromkeys(texts))
        while chunk := list(islice(distinct, AT_ONCE)):
            if self.keeps_text:
                found |= {text: self._encode_unchanged(text) for text in chunk}
                continue
            answers = self.segmenter.segment([normalise(text) for text in chunk])
            found |= {text: self._encode(text, answer) for text, answer in zip(chunk, answers, strict=True)}
        return found

    def _encode(self, text: str, answer: list[str] | Rejected) -> Pieces:
        characters, origins = align(text)
        words = [characters] if isinstance(answer, Rejected) else answer
        # Spans are counted in these characters: a single extra one would move every later answer.
        assert "".join(words) == characters, f"{text!r}: alignment and words spell it differently"
        line = " ".join(words)
        found = self._encoder.encode_placed([line])
        rejected = f"{answer.reason}: {answer.detail}" if isinstance(answer, Rejected) else ""
        return Pieces(found.ids.astype(np.int32), _spans(line, found.spans, origins), rejected)

    def _encode_unchanged(self, text: str) -> Pieces:
        kept = LONE_SURROGATE.sub("\N{REPLACEMENT CHARACTER}", text)
        found = self._encoder.encode_placed([kept])
        return Pieces(found.ids.astype(np.int32), found.spans.astype(np.int32))


def _spans(line: str, offsets: np.ndarray, origins: list[Span]) -> Array:
    """The original characters of pieces that lie at `offsets` of a line of words; `origins` are those of its characters but spaces."""
    origin = np.array(origins, np.int32).reshape(-1, 2)
    before = np.cumsum([0, *(character != " " for character in line)])  # characters but spaces before each place
    first, end = before[offsets].T
    starts = np.append(origin[:, 0], origin[-1:, 1])
    ends = np.where(first < end, np.append(0, origin[:, 1])[end], starts[first])
    return np.stack([starts[first], ends], axis=1).astype(np.int32)
