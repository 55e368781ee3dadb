"""`jadeberta.Tokenizer`: raw text to the ids of a released model, as its pre-training text was made: normalised, segmented, encoded.

Needs neither torch nor transformers. Promises the ids that the release's own tokenizer gives the prepared text, and for each token the
characters of the raw text that it stands for. Never uses another segmenter than the model's.
"""

import logging
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from pathlib import Path
from typing import Any, Self

from jadeberta.errors import CheckpointError, ConfigError, InputError
from jadeberta.finetune.alignment import Span, align
from jadeberta.finetune.encoder import open_engine
from jadeberta.release.origin import read_origin, reads_text
from jadeberta.shards.tokenizer_format import FAST_FILE, MODEL_FILE
from preprocess.segmenters import Rejected, Segmenter
from preprocess.segmenters.base import LONE_SURROGATE
from preprocess.text import normalise
from preprocess.tokenization.encoders import find_tokenizer, open_encoder, read_tokenizer
from preprocess.tokenization.encoders.fast_file import fast_tokenizer

log = logging.getLogger(__name__)

MASK = "[MASK]"
"""What stands for the mask token in a text, beside the tokenizer's own name of it."""
HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


@dataclass(frozen=True)
class Prepared:
    """A raw text in the form in which the model reads it."""

    text: str
    """Normalised, with spaces between words where the model reads words; special tokens stand as they are."""
    places: list[Span]
    """For each character of `text` the characters [start, end) of the raw text that it comes from."""


@dataclass(frozen=True)
class Encoding:
    """A raw text as tokens."""

    ids: list[int]
    offsets: list[Span]
    """For each token the characters [start, end) of the raw text; (0, 0) for the tokens around the text."""


class Tokenizer:
    """The tokenizer of a release or a checkpoint for raw text.

    `tokenizer(text, return_tensors="pt")` gives what the model takes. The special tokens' names in a text, and `[MASK]`, stand for those
    tokens; what stands between them is segmented by itself.
    """

    def __init__(self, directory: str | Path, segmenter: str | None = None, segmenter_command: str = "") -> None:
        """Opens a tokenizer; the segmenter's program starts with the first text.

        Args:
            directory: a release, a checkpoint, or a model from elsewhere with `tokenizer.json`.
            segmenter: the engine's name, where the directory does not say which one made the pre-training text.
            segmenter_command: program and options of jumanpp or juman; empty: the one on PATH.

        Raises:
            CheckpointError: it is no such directory, or a file of it is missing or damaged.
            ConfigError: the segmenter is not named, or not the model's.
        """
        import tokenizers

        self.directory = Path(directory)
        refuse_hub_name(self.directory)
        self._origin = read_origin(self.directory)
        if self._origin is None and segmenter is None:
            open_engine(None, self.directory, None, "")  # says what to name
        self._engine, self._command = segmenter, segmenter_command
        main = (self._origin or {"tokenizer_file": ""}).get("tokenizer_file", MODEL_FILE)
        try:
            files = read_tokenizer(self.directory, main) if main else find_tokenizer(self.directory)
            encoder = open_encoder(files)
        except ConfigError as e:
            raise CheckpointError(str(e)) from e
        special = encoder.special
        names = {number: name for number in special.ids if (name := encoder.name_of(number)) is not None}
        try:
            # A model from elsewhere may have the sentencepiece model alone.
            fast = files.content.get(FAST_FILE) or fast_tokenizer(files.content[files.main], special, names)
            self._tokenizer = tokenizers.Tokenizer.from_str(fast.decode())
        except Exception as e:  # `tokenizers` raises plain Exception
            raise CheckpointError(
                f"{self.directory / FAST_FILE}: not a tokenizer ({str(e).strip()[:200]}). Name an exported directory."
            ) from e
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()
        self.pad_token_id, self.cls_token_id, self.sep_token_id = special.pad, special.cls, special.sep
        self.mask_token_id, self.unk_token_id = special.mask, special.unk
        self.vocab_size = encoder.vocab_size
        self.mask_token = names.get(special.mask, MASK)
        longest_first = sorted({MASK, *names.values()} - {""}, key=lambda name: (-len(name), name))
        self._special = re.compile("|".join(map(re.escape, longest_first)))

    @classmethod
    def from_pretrained(cls, directory: str | Path, **options: Any) -> Self:
        """Opens a tokenizer; another name of the constructor, as Hugging Face's classes have it."""
        return cls(directory, **options)

    @cached_property
    def segmenter(self) -> Segmenter:
        """The word segmenter; remarks on another version than then go to the log.

        Raises:
            ConfigError: the model's normaliser is another version's, or the engine is not the model's.
            SegmenterError: the engine is not installed or does not work.
        """
        opened, remarks = open_engine(self._origin, self.directory, self._engine, self._command)
        for remark in remarks:
            log.warning("%s: %s", self.directory, remark)
        return opened

    @property
    def reads_text(self) -> bool:
        """Whether the model reads text without spaces between words."""
        if self._origin is None:
            return self._engine == "none"
        return reads_text(self._origin) or self._origin["segmenter"].get("engine") == "none"

    @property
    def keeps_text(self) -> bool:
        """Whether the model's text was not normalised."""
        return self._origin is not None and self._origin["normaliser"] == "none"

    def close(self) -> None:
        """Ends the segmenter's process, if there is one."""
        if "segmenter" in self.__dict__:
            self.segmenter.close()
            del self.__dict__["segmenter"]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __call__(
        self,
        text: str | Sequence[str],
        return_tensors: str | None = None,
        padding: bool = False,
        max_length: int | None = None,
        return_offsets_mapping: bool = False,
    ) -> Any:
        """Encodes one raw text or several.

        Args:
            text: raw text or texts.
            return_tensors: pt (torch), np (numpy), or None for lists.
            padding: whether shorter texts of several are padded to the longest one.
            max_length: texts of more tokens are truncated there, the ending one kept.
            return_offsets_mapping: whether the offsets into the raw text are given, as `offset_mapping`.

        Returns:
            {"input_ids", "attention_mask"}, each [texts, tokens] with `return_tensors`, or lists as long as the texts; a BatchEncoding
            where transformers is installed and tensors are asked for.

        Raises:
            InputError: it is no text, or texts of several lengths cannot be one tensor.
        """
        texts = [text] if isinstance(text, str) else list(text)
        if wrong := next((t for t in texts if not isinstance(t, str)), None):
            raise InputError(f"{str(wrong)[:40]!r} is no text but {type(wrong).__name__}. Give a string or a list of strings.")
        if return_tensors not in (None, "pt", "np"):
            raise InputError(f"return_tensors is {str(return_tensors)[:20]!r}. Choose pt, np or None.")
        if max_length is not None and max_length < 2:
            raise InputError(f"max_length is {max_length}, which leaves no room for {self.cls_token_id} and {self.sep_token_id}.")
        encodings = [_truncated(encoding, max_length) for encoding in self.encode(texts)]
        longest = max((len(encoding.ids) for encoding in encodings), default=0)
        if return_tensors and not padding and any(len(encoding.ids) != longest for encoding in encodings):
            raise InputError("texts of several lengths are no tensor. Set padding=True.")
        fill = [longest - len(encoding.ids) if padding else 0 for encoding in encodings]
        found: dict[str, Any] = {
            "input_ids": [e.ids + [self.pad_token_id] * more for e, more in zip(encodings, fill, strict=True)],
            "attention_mask": [[1] * len(e.ids) + [0] * more for e, more in zip(encodings, fill, strict=True)],
        }
        if return_offsets_mapping:
            found["offset_mapping"] = [e.offsets + [(0, 0)] * more for e, more in zip(encodings, fill, strict=True)]
        if return_tensors is None:
            return {name: values[0] for name, values in found.items()} if isinstance(text, str) else found
        return _tensors(found, return_tensors)

    def encode(self, texts: Sequence[str]) -> list[Encoding]:
        """Encodes raw texts, each with the tokens that begin and end it in training."""
        prepared = self.prepare(texts)
        found = self._tokenizer.encode_batch([p.text for p in prepared], add_special_tokens=False)
        return [
            Encoding(
                [self.cls_token_id, *encoded.ids, self.sep_token_id],
                # The library gives a word mark that it puts in front of a text the text's first character.
                [
                    (0, 0),
                    *(
                        _raw_span(p.places, start, start if token == "▁" else end)
                        for token, (start, end) in zip(encoded.tokens, encoded.offsets, strict=True)
                    ),
                    (0, 0),
                ],
            )
            for p, encoded in zip(prepared, found, strict=True)
        ]

    def prepare(self, texts: Sequence[str]) -> list[Prepared]:
        """Returns raw texts in the form in which the model reads them, which is also what AutoTokenizer takes of the release."""
        cut = [list(self._parts(text)) for text in texts]
        plain = [part for parts in cut for part, _, is_special in parts if not is_special]
        # All texts at once: an engine in a process of its own may start one for each call.
        answers = iter(plain if self.reads_text else self.segmenter.segment([normalise(part) for part in plain]))
        return [self._joined(parts, answers) for parts in cut]

    def convert_ids_to_tokens(self, ids: Sequence[int]) -> list[str]:
        """Returns the text of each token; empty for an id without one."""
        return [self._tokenizer.id_to_token(int(number)) or "" for number in ids]

    def word(self, number: int) -> str:
        """Returns the text of a token for a person: without the mark of a word's beginning, of byte-level BPE that of its bytes."""
        token = self._tokenizer.id_to_token(number) or ""
        if type(self._tokenizer.decoder).__name__ == "ByteLevel":
            text = self._tokenizer.decode([number], skip_special_tokens=False)
            return token if "\N{REPLACEMENT CHARACTER}" in text else text.strip() or token
        return token.removeprefix("▁") or token

    def decode(self, ids: Sequence[int], skip_special_tokens: bool = True) -> str:
        """Returns the text of ids; words stay apart, because the model's text has spaces between them."""
        return str(self._tokenizer.decode([int(number) for number in ids], skip_special_tokens=skip_special_tokens))

    def _parts(self, text: str) -> Iterator[tuple[str, int, bool]]:
        """The text cut at its special tokens: each part, where it begins, and whether it is such a token."""
        place = 0
        for match in self._special.finditer(text):
            if match.start() > place:
                yield text[place : match.start()], place, False
            yield match[0], match.start(), True
            place = match.end()
        if place < len(text):
            yield text[place:], place, False

    def _joined(self, parts: list[tuple[str, int, bool]], answers: Iterator[Any]) -> Prepared:
        pieces: list[str] = []
        places: list[Span] = []
        for number, (part, start, is_special) in enumerate(parts):
            if is_special:
                found = self.mask_token if part == MASK else part
                spans = [(0, len(part))] * len(found)
            elif self.keeps_text and self.reads_text:
                found, spans = (
                    LONE_SURROGATE.sub("\N{REPLACEMENT CHARACTER}", next(answers)),
                    [(n, n + 1) for n in range(len(part))],
                )
            else:
                found, spans = self._words(part, next(answers), (number > 0, number + 1 < len(parts)))
            if pieces and not self.reads_text and found:
                pieces.append(" ")
                places.append((start, start))
            pieces.append(found)
            places += [(start + first, start + last) for first, last in spans]
        return Prepared("".join(pieces), places)

    def _words(self, part: str, answer: list[str] | Rejected | str, between: tuple[bool, bool]) -> tuple[str, list[Span]]:
        """A part in the model's form, and for each character where it comes from in the part.

        Args:
            part: raw text.
            answer: its words; the part itself where the model reads text.
            between: whether something stands in front of the part, and behind it.
        """
        characters, origins = align(part)
        if self.reads_text:
            # A space beside a special token is one inside the text; no mark joins with a digit.
            line = normalise(f"{'0' * between[0]}{part}{'0' * between[1]}")
            line = line[between[0] : len(line) - between[1]]
        elif isinstance(answer, Rejected):
            log.warning("%s: no words for '%s' (%s: %s); it is one word", self.directory, part[:40], answer.reason, answer.detail)
            line = characters
        else:
            line = " ".join(answer)
        if line.replace(" ", "") != characters:
            raise InputError(f"'{part[:40]}': its normalised form and its words differ. Leave out rare combining marks in it.")
        seen = list(accumulate((character != " " for character in line), initial=0))  # characters but spaces before each place
        ends = [0, *(end for _, end in origins)]
        return line, [origins[n] if character != " " else (ends[n], ends[n]) for character, n in zip(line, seen, strict=False)]


def refuse_hub_name(path: Path) -> None:
    """Raises CheckpointError where a path is no directory; of what looks like a name of Hugging Face's Hub it says how to download it."""
    if path.is_dir():
        return
    if not path.exists() and HUB_NAME.fullmatch(str(path)):
        name = str(path).partition("/")[2]
        raise CheckpointError(
            f"{path}: no such directory, and nothing is downloaded. Run 'hf download {path} --local-dir {name}' and name {name}."
        )
    raise CheckpointError(f"{path}: {'not a directory' if path.exists() else 'no such directory'}. Name an exported directory.")


def _raw_span(places: list[Span], start: int, end: int) -> Span:
    covered = [span for span in places[start:end] if span[0] < span[1]]
    if covered:
        return covered[0][0], covered[-1][1]
    first = places[start][0] if start < len(places) else places[-1][1] if places else 0
    return first, first


def _truncated(encoding: Encoding, longest: int | None) -> Encoding:
    if longest is None or len(encoding.ids) <= longest:
        return encoding
    return Encoding([*encoding.ids[: longest - 1], encoding.ids[-1]], [*encoding.offsets[: longest - 1], encoding.offsets[-1]])


def _tensors(found: dict[str, Any], kind: str) -> Any:
    if kind == "np":
        import numpy as np

        return {name: np.array(values, np.int64) for name, values in found.items()}
    try:
        import torch
    except ImportError as e:
        raise ConfigError('return_tensors="pt": torch is not installed. Install it, or take np.') from e
    tensors = {name: torch.tensor(values, dtype=torch.int64) for name, values in found.items()}
    try:
        from transformers import BatchEncoding
    except ImportError:
        return tensors
    return BatchEncoding(tensors)
