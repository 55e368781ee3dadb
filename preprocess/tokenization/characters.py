"""Rows of characters instead of subwords, with the words of the segmenter kept for whole-word masking.

A character model reads plain text: each character is a token, and so is a space (▁). Where words begin is then not to be seen from the
tokens. Bit 15 of a shard's document numbers says it: a row has at most 512 documents, which leaves that bit free.
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
"""Before a word in a row of words: the text has a space there. No normalised text holds this character."""
MARKED = np.arange(2**16) >= WORD_START
"""Which tokens start a word, for `packing.best_fit`: between encoder and shard the bit is on the token."""


def with_spaces(words: Iterable[dict[str, Any]], documents: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Rows of words with `SPACE` before each that has a space before it in its document, which segmentation took away.

    Args:
        words: {"id", "sentences": ["word word", ...]} of a part.
        documents: {"id", "text"} of the same part.

    Raises InputError where the two are not of the same documents.
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
    """Finds the sentence of some words among those that follow; others were quarantined. Raises StopIteration where there is none."""
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
    """Each document as tokens of characters with `WORD_START` on those that start a word; one without a sentence gives nothing.

    Args:
        rows: of `with_spaces`.
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
    """Of the ▁ that begins a sentence, its words and its spaces in order: how many tokens each is, where no character is unknown."""
    lengths = [1]
    for word in words:
        lengths += (1, len(word) - 1) if word[0] == SPACE else (len(word),)
    return lengths


def _joined(lengths: list[int], text: str, ids: list[int], processor: sentencepiece.SentencePieceProcessor) -> list[int]:
    """The lengths of a sentence in tokens as they are: unknown characters in a row are one, and join the words that they cross."""
    if len(ids) == len(text) + 1:
        return lengths
    starts = np.cumsum([0, *lengths[1:-1]])  # places in the text where words and spaces start
    offsets = [start for start, _ in processor.encode(text, return_type="offset_mapping")["offsets"]]
    marks = np.flatnonzero([True, *np.isin(offsets[1:], starts)])
    return np.diff([*marks, len(ids)]).tolist()  # type: ignore[no-any-return]


def take_marks(rows: Rows) -> Rows:
    """Rows whose tokens carry `WORD_START` as they are written: the bit on the document numbers."""
    return rows._replace(tokens=rows.tokens & ~np.uint16(WORD_START), numbers=rows.numbers | rows.tokens & np.uint16(WORD_START))
