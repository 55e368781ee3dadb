"""Raw texts as the pieces of a model's own tokenizer, each with the raw characters that it stands for and the word that it is of."""

import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import transformers

from jadeberta.compare.restoring import Fold
from jadeberta.compare.text_units import LONGEST_WORD, cut_long_words, words_by_script
from jadeberta.errors import CheckpointError, ConfigError
from jadeberta.finetune.alignment import Span, align
from jadeberta.finetune.encoder import ENGINES, open_engine
from jadeberta.finetune.pretrained import tokenizer_file
from jadeberta.shards.tokenizer_format import ALL_TOKENIZER_FILES
from jadeberta.utils.files import file_sha256
from preprocess.config import Engine, SegmenterConfig
from preprocess.segmenters import Rejected, Segmenter, open_segmenter
from preprocess.text import normalise
from preprocess.tokenization.encoders import open_encoder, read_tokenizer

WORDS = ("auto", "script", "jumanpp", "juman", "mecab")
"""What is masked together: auto: the words that the model reads, else its tokenizer's; script: runs of one script; or an engine's words."""
BY_SCRIPT = "runs of one script"
PROGRAMS = ("jumanpp", "juman")
"""Engines that are programs, which --segmenter-command names; the others are part of Python."""
BY_TOKENIZER = f"words of the tokenizer, those above {LONGEST_WORD} characters cut where the script changes"


@dataclass(frozen=True)
class TextPieces:
    """A text as pieces."""

    ids: list[int]
    spans: list[tuple[int, int]]
    """Raw characters [start, end) of each piece."""
    words: np.ndarray
    """Number of the word of each raw character, int64, not descending."""
    is_rejected: bool = False
    """Whether a segmenter gave no words for the text, so that runs of one script stand for them."""


@dataclass(frozen=True)
class OpenTokenizer:
    """A model's tokenizer with its pre-processing."""

    encode: Callable[[str], TextPieces]
    fold: Fold
    frame: tuple[list[int], list[int]]
    mask: int
    unknown: frozenset[int]
    vocab_size: int
    longest: int
    """Tokens of a row that the tokenizer allows."""
    sha256: str
    segmenter: str
    words: str
    """What is masked together, in words."""


LinePieces = tuple[list[int], list[tuple[int, int]], list[int] | None]
"""Ids, spans within the line, and numbers of the words where the tokenizer has them."""
Lines = Callable[[str], LinePieces]


class _Texts:
    """Turns raw texts into pieces: segmenter, tokenizer, and the way back to the raw characters."""

    def __init__(self, lines: Lines, segmenter: Segmenter | None, units: Segmenter | None, rule: str, normalises: bool) -> None:
        """Args:
        lines: the tokenizer.
        segmenter: puts spaces between words; None: the text is read as it is.
        units: whose words are masked together; None: by `rule`.
        rule: auto, script or the name of an engine.
        normalises: whether the text is normalised first.
        """
        self._lines, self._segmenter, self._units, self._rule = lines, segmenter, units, rule
        self._normalises = normalises

    def __call__(self, text: str) -> TextPieces:
        if self._segmenter is None and not self._normalises:
            ids, spans, words = self._lines(text)
            return TextPieces(ids, spans, *self._words_of(text, spans, words))
        characters, origins = align(text)
        line, begins, is_rejected = normalise(text), None, False
        if self._segmenter is not None:
            line, begins, is_rejected = _segmented(self._segmenter, text, characters, origins)
        ids, spans, words = self._lines(line)
        raw = _raw_spans(line, spans, origins, len(text))
        if begins is not None and self._rule == "auto":
            return TextPieces(ids, raw, begins, is_rejected)
        units, is_without = self._words_of(text, raw, words)
        return TextPieces(ids, raw, units, is_rejected or is_without)

    def _words_of(self, text: str, spans: list[tuple[int, int]], words: list[int] | None) -> tuple[np.ndarray, bool]:
        """The number of the word of each raw character, and whether the engine of the words gave none."""
        if self._units is not None:
            return _segmented(self._units, text, *align(text))[1:]
        if self._rule == "script" or words is None:
            return words_by_script(text), False
        begins = np.zeros(len(text), bool)
        before = None
        for (start, end), word in zip(spans, words, strict=True):
            if word != before and start < end:
                begins[start], before = True, word
        return cut_long_words(np.cumsum(begins), text), False


def _segmented(segmenter: Segmenter, text: str, characters: str, origins: Sequence[Span]) -> tuple[str, np.ndarray, bool]:
    """The normalised words of a text with spaces between them, the number of the word of each raw character, and whether there are none."""
    (answer,) = segmenter.segment([normalise(text)])
    if isinstance(answer, Rejected):
        # A text that is one word would be asked without any context.
        return characters, words_by_script(text), True
    begins, place = np.zeros(len(text), bool), 0
    for word in answer:
        if word:
            begins[origins[place][0]] = True
        place += len(word)
    return " ".join(answer), np.cumsum(begins), False


def _raw_spans(line: str, spans: list[tuple[int, int]], origins: Sequence[Span], length: int) -> list[tuple[int, int]]:
    """Raw characters of pieces that lie at `spans` of a line; `origins` are those of its characters but spaces."""
    before = np.cumsum([0, *(not character.isspace() for character in line)])
    found = []
    for start, end in spans:
        first, last = int(before[start]), int(before[end])
        if first < last:
            found.append((origins[first][0], origins[last - 1][1]))
        else:
            place = origins[first][0] if first < len(origins) else length
            found.append((place, place))
    return found


def open_own(directory: Path, origin: dict[str, Any], segmenter: str | None, words: str, command: str) -> OpenTokenizer:
    """Opens the tokenizer of a model that records how its text was made; arguments and errors are those of `open_model`."""
    own_command = command if origin["segmenter"].get("engine") in PROGRAMS else ""
    engine, _ = open_engine(origin, directory, segmenter, own_command)
    reads_plain = engine.description.get("engine") == "none"
    file = tokenizer_file(directory, origin)
    if not file.is_file():
        raise CheckpointError(f"{file}: missing; text cannot be encoded without it. Copy it there from the shards' tokenizer/.")
    encoder = open_encoder(read_tokenizer(directory, file.name))
    special = encoder.special

    def lines(line: str) -> LinePieces:
        found = encoder.encode_placed([line])
        return found.ids.tolist(), [(int(a), int(b)) for a, b in found.spans], None

    normalises = origin["normaliser"] != "none"
    units, rule = _units(words, command)
    known = "" if reads_plain else f"words of {engine.description['engine']}"
    return OpenTokenizer(
        _Texts(lines, None if reads_plain else engine, units, words, normalises),
        normalise if normalises else _unchanged,
        ([special.cls], [special.sep]),
        special.mask,
        frozenset(special.ids),
        # Without an id for padding that the tokenizer lacks: its model need not have one.
        encoder.vocab_size - (encoder.name_of(special.pad) is None),
        10**9,
        file_sha256(file),
        str(engine.description.get("engine")),
        rule or known or BY_SCRIPT,
    )


def open_foreign(directory: Path, segmenter: str | None, words: str, command: str) -> OpenTokenizer:
    """Opens the tokenizer of a model from elsewhere; arguments and errors are those of `open_model`."""
    if segmenter is None:
        raise ConfigError(
            f"{directory} does not say whether its text was cut into words. Name the segmenter of its pre-training with --segmenter "
            f"({', '.join(ENGINES)}); none where it reads plain text."
        )
    try:
        tokenizer: Any = transformers.AutoTokenizer.from_pretrained(str(directory), trust_remote_code=False)
    except ImportError as e:
        raise CheckpointError(f"{directory}: its tokenizer cannot be loaded ({_reason(e)}). Install what it names.") from e
    except Exception as e:  # any class, by the tokenizer's own code
        reason = _reason(e)
        if "trust_remote_code" in reason:
            reason = "it asks for Python code of its own, which is never run"
        raise CheckpointError(f"{directory}: its tokenizer cannot be loaded ({reason}). Download all of its files again.") from e
    if tokenizer.mask_token_id is None:
        raise ConfigError(
            f"{directory}: its tokenizer has no mask token, so nothing can be asked. Name a model that fills masks."
        )
    framed = tokenizer("")["input_ids"]
    first = {tokenizer.cls_token_id, tokenizer.bos_token_id}
    before = 1 if framed and framed[0] in first else 0
    unknown = {int(number) for number in tokenizer.all_special_ids}
    engine = None if segmenter == "none" else _open(segmenter, command)
    units, rule = _units(words, command)
    lines = _fast_lines(tokenizer) if tokenizer.is_fast else _slow_lines(tokenizer)
    own = _fold_of(tokenizer)
    files = [name for name in ALL_TOKENIZER_FILES if (directory / name).is_file()]
    return OpenTokenizer(
        _Texts(lines, engine, units, words, engine is not None),
        (lambda c: own(normalise(c))) if engine else own,
        (framed[:before], framed[before:]),
        tokenizer.mask_token_id,
        frozenset(unknown),
        len(tokenizer),
        int(min(tokenizer.model_max_length, 10**9)),
        file_sha256(directory / files[0]) if files else "",
        segmenter,
        rule or (f"words of {segmenter}" if engine else BY_TOKENIZER if tokenizer.is_fast else BY_SCRIPT),
    )


def _reason(error: Exception) -> str:
    return " ".join(str(error).split())[:200]


def _open(engine: str, command: str) -> Segmenter:
    """An engine; one that is no program is opened without the command, which is then for another model or for the words."""
    return open_segmenter(SegmenterConfig(engine=cast(Engine, engine), command=command if engine in PROGRAMS else ""))


def _units(words: str, command: str) -> tuple[Segmenter | None, str]:
    """The engine whose words are masked together, and the rule in words; nothing of both for auto."""
    if words == "auto":
        return None, ""
    if words == "script":
        return None, BY_SCRIPT
    return _open(words, command), f"words of {words}"


def _unchanged(text: str) -> str:
    return text


def _fold_of(tokenizer: Any) -> Fold:
    """What a tokenizer's own normaliser makes of a character."""
    if tokenizer.is_fast:
        normaliser = tokenizer.backend_tokenizer.normalizer
        return _unchanged if normaliser is None else lambda text: str(normaliser.normalize_str(text))
    is_small = bool(getattr(tokenizer, "do_lower_case", False))
    return lambda text: unicodedata.normalize("NFKC", text.lower() if is_small else text)


def _fast_lines(tokenizer: Any) -> Lines:
    backend = tokenizer.backend_tokenizer
    # Special tokens that a text spells stay text.
    backend.encode_special_tokens = True
    backend.no_padding()
    backend.no_truncation()

    def lines(line: str) -> LinePieces:
        found = backend.encode(line, add_special_tokens=False)
        numbers = [-1 - place if word is None else word for place, word in enumerate(found.word_ids)]
        return list(found.ids), [(int(a), int(b)) for a, b in found.offsets], numbers

    return lines


def _slow_lines(tokenizer: Any) -> Lines:
    """A tokenizer that does not say where its pieces lie: they are looked for in the text, one after the other."""
    fold, unknown = _fold_of(tokenizer), tokenizer.unk_token_id

    def lines(line: str) -> LinePieces:
        ids = tokenizer(line, add_special_tokens=False, split_special_tokens=True, truncation=False)["input_ids"]
        folded, places = "", list[int]()
        for place, character in enumerate(line):
            found = fold(character)
            folded, places = folded + found, places + [place] * len(found)
        places.append(len(line))
        spans: list[tuple[int, int] | None] = []
        at = 0
        for number, token in zip(ids, tokenizer.convert_ids_to_tokens(ids), strict=True):
            piece = str(token).removeprefix("##").replace("▁", "")
            start = -1 if number == unknown else folded.find(piece, at)
            if start < 0:
                spans.append(None)
                continue
            at = start + len(piece)
            spans.append((places[start], places[at - 1] + 1 if piece else places[start]))
        return ids, _between(spans, line), None

    return lines


def _between(spans: list[tuple[int, int] | None], line: str) -> list[tuple[int, int]]:
    """Gives a piece that was not found all characters up to the next one that was; further such pieces beside it get none."""
    found: list[tuple[int, int]] = []
    end = 0
    for place, span in enumerate(spans):
        if span is None:
            following = next((later[0] for later in spans[place:] if later), len(line))
            span = (end, max(end, following))
        found.append(span)
        end = max(end, span[1])
    return found
