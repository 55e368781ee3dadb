"""Encodes documents with any tokenizer, and marks on each token whether a word starts there.

Words come from the segmenter, matched to tokens by characters; from the tokenizer's own rules; or each token is a word. Between the
encoder and the shard a mark is the highest bit of a 32-bit token; in the shard it is `WORD_START` of the document number.
"""

from collections.abc import Iterable, Iterator
from itertools import chain, islice
from typing import Any

import numpy as np

from jadeberta.shards import WORD_START
from preprocess.tokenization.characters import SPACE
from preprocess.tokenization.encoders import Encoded, Encoder
from preprocess.tokenization.packing import MARK, EncodedDocument, Rows

DOCUMENTS_AT_ONCE = 64
"""Number of documents that are encoded together."""


def encode_marked(rows: Iterable[dict[str, Any]], encoder: Encoder, source: str, is_spaced: bool) -> Iterator[EncodedDocument]:
    """Encodes documents as uint32 tokens with `MARK` where a word starts; documents without a sentence are skipped.

    Args:
        rows: {"sentences": [text]}.
        encoder: of the tokenizer.
        source: what says where words start; not auto.
        is_spaced: the sentences are words with a space between them, and those with a space before them in the text have `SPACE` in front
            (`characters.with_spaces`); the tokenizer gets them without the added spaces.
    """
    cls, sep = np.uint32(encoder.special.cls), np.uint32(encoder.special.sep)
    held = (row["sentences"] for row in rows if row["sentences"])
    while documents := list(islice(held, DOCUMENTS_AT_ONCE)):
        lines = list(chain.from_iterable(documents))
        found, starts = _encode(lines, encoder, source, is_spaced)
        tokens = found.ids.astype(np.uint32)
        tokens[starts] |= MARK
        sentence = start = 0
        for sentences in documents:
            borders = np.cumsum(found.lengths[sentence : sentence + len(sentences)])
            end = start + int(borders[-1])
            framed = np.empty(end - start + 2, np.uint32)
            framed[0], framed[1:-1], framed[-1] = cls, tokens[start:end], sep
            yield EncodedDocument(framed, borders)
            sentence, start = sentence + len(sentences), end


def take_marks(rows: Rows, dtype: str) -> Rows:
    """Moves the marks from the tokens to the document numbers, as shards store them; tokens become of the shards' type."""
    numbers = rows.numbers | ((rows.tokens >> np.uint32(16)).astype(np.uint16) & np.uint16(WORD_START))
    return rows._replace(tokens=(rows.tokens & ~MARK).astype(dtype), numbers=numbers)


def _encode(lines: list[str], encoder: Encoder, source: str, is_spaced: bool) -> tuple[Encoded, np.ndarray]:
    texts = ["".join(line.split(" ")).replace(SPACE, " ") for line in lines] if is_spaced else lines
    if source == "tokens":
        found = encoder.encode(texts)
        return found, np.ones(len(found.ids), bool)
    if source != "segmenter":
        return encoder.encode_words(texts)
    placed = encoder.encode_placed(texts)
    # Places of all texts in one line of characters; each text has one place more, so that its end is none of the next one's.
    first = np.cumsum([0, *(len(text) + 1 for text in texts)])
    spaces = np.frombuffer("\n".join(texts).encode("utf-32-le", "surrogatepass") + b"\0\0\0\0", np.uint32) == ord(" ")
    begins = np.zeros(len(spaces) + 1, bool)
    begins[np.fromiter(chain.from_iterable(map(_word_places, lines, first.tolist(), [is_spaced] * len(lines))), np.int64)] = True
    origin = np.repeat(first[:-1], placed.lengths)
    left = placed.spans[:, 0] + origin
    # Spaces belong to the word behind them, whether a token of their own or part of the word's.
    behind = np.where(spaces, len(spaces), np.arange(len(spaces)))
    at_word = np.minimum.accumulate(behind[::-1])[::-1][left]
    starts = begins[at_word]
    # The bytes of one character, or a lone ▁ and the letters behind it, are at one place: the first of them starts the word. And a token
    # that begins inside a character goes on with what the one before it began.
    right = placed.spans[:, 1] + origin
    starts[1:] &= (at_word[1:] != at_word[:-1]) & (left[1:] >= right[:-1])
    firsts = (np.cumsum(placed.lengths) - placed.lengths)[placed.lengths > 0]
    starts[firsts] = True
    return Encoded(placed.ids, placed.lengths), starts


def _word_places(line: str, first: int, is_spaced: bool) -> Iterator[int]:
    """Yields the places of the words of a sentence, from `first` on."""
    place = first
    for word in line.split(" "):
        if is_spaced:
            place += word.startswith(SPACE)
            yield place
            place += len(word) - word.startswith(SPACE)
        else:
            yield place
            place += len(word) + 1
