"""Encodes text as characters instead of subwords, and keeps the segmenter's words for whole-word masking.

A character model reads plain text: each character is a token, and so is a space (▁). The tokens do not show where words begin; bit 15 of a
shard's document numbers does. A row of 8,192 tokens has at most as many documents, so that bit is free.
"""

from collections.abc import Iterable, Iterator
from itertools import chain
from typing import Any

import numpy as np
import sentencepiece

from jadeberta.shards import WORD_START, InputError
from jadeberta.shards.tokenizer_format import CLS, SEP
from preprocess.text import split_sentences
from preprocess.tokenization.packing import EncodedDocument, Rows

SPACE = "▁"
"""Prefix of a word that has a space before it in the text. No normalised text holds this character."""
MARKED = np.arange(2**16) >= WORD_START
"""Tokens that start a word, bool [65,536], for `packing.best_fit`: between encoder and shard the bit is on the token."""


def with_spaces(words: Iterable[dict[str, Any]], documents: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Yields rows of words with `SPACE` before each word that has a space before it in its document, which segmentation removed.

    Args:
        words: {"id", "sentences": ["word word", ...]} of a part.
        documents: {"id", "text"} of the same part.

    Raises:
        InputError: words and documents do not belong together.
    """
    for row, document in zip(words, documents, strict=True):
        sentences = iter(split_sentences(document["text"]))
        try:
            yield row | {"sentences": [_mark_spaces(line, sentences) for line in row["sentences"]]}
        except StopIteration:
            raise InputError(
                f"document {row['id']}: its words are not those of its text. Delete work/words under --out and segment again."
            ) from None


def _mark_spaces(line: str, sentences: Iterator[str]) -> str:
    """Marks the words of a sentence by finding it among the next sentences (the skipped ones were quarantined); StopIteration: not
    found."""
    spelled = line.replace(" ", "")
    sentence = next(sentence for sentence in sentences if sentence.replace(" ", "") == spelled)
    if " " not in sentence:
        return line
    marked, place = [], 0
    for word in line.split(" "):
        spaced = sentence[place] == " "
        marked.append(SPACE + word if spaced else word)
        place += spaced
        for character in word:
            place += sentence[place] == " "  # an engine may take a word over a space
            assert sentence[place] == character
            place += 1
    return " ".join(marked)


def encode_characters(
    rows: Iterable[dict[str, Any]], processor: sentencepiece.SentencePieceProcessor
) -> Iterator[EncodedDocument]:
    """Encodes documents as tokens of characters, with `WORD_START` on those that start a word; documents without a sentence are skipped.

    Args:
        rows: rows that `with_spaces` yields.
        processor: a model of characters.
    """
    for row in rows:
        if not row["sentences"]:
            continue
        lines = [line.split(" ") for line in row["sentences"]]
        texts = ["".join(words).replace(SPACE, " ") for words in lines]
        ids = processor.encode(texts, num_threads=1)
        lengths = [_token_lengths(words) for words in lines]
        if any(len(found) != len(text) + 1 for found, text in zip(ids, texts, strict=True)):
            lengths = [_joined(*sentence, processor) for sentence in zip(lengths, texts, ids, strict=True)]
        ends = np.cumsum([len(found) for found in ids])
        tokens = np.full(int(ends[-1]) + 2, SEP, np.uint16)
        tokens[0] = CLS
        tokens[1:-1] = np.fromiter(chain.from_iterable(ids), np.uint16, int(ends[-1]))
        places = np.cumsum(np.fromiter(chain.from_iterable(lengths), np.int64))
        tokens[1] |= WORD_START
        tokens[1 + places[:-1]] |= WORD_START
        yield EncodedDocument(tokens, ends)


def _token_lengths(words: list[str]) -> list[int]:
    """Returns the number of tokens of the sentence's first ▁, its words and its spaces, in order, if no character is unknown."""
    lengths = [1]
    for word in words:
        lengths += (1, len(word) - 1) if word[0] == SPACE else (len(word),)
    return lengths


def _joined(lengths: list[int], text: str, ids: list[int], processor: sentencepiece.SentencePieceProcessor) -> list[int]:
    """Corrects the lengths for unknown characters: several in a row are one token, which joins the words that they cross."""
    if len(ids) == len(text) + 1:
        return lengths
    starts = np.cumsum([0, *lengths[1:-1]])  # places in the text where words and spaces start
    offsets = [start for start, _ in processor.encode(text, return_type="offset_mapping")["offsets"]]
    marks = np.flatnonzero([True, *np.isin(offsets[1:], starts)])
    return np.diff([*marks, len(ids)]).tolist()  # type: ignore[no-any-return]


def take_marks(rows: Rows) -> Rows:
    """Moves the bit `WORD_START` from the tokens to the document numbers, as shards store it."""
    return rows._replace(tokens=rows.tokens & ~np.uint16(WORD_START), numbers=rows.numbers | rows.tokens & np.uint16(WORD_START))
