"""Measures how well a tokenizer's pieces cover the words of its corpus, beside those that sentencepiece alone would find.

Counts the words of `tokenizer/words.tsv`, each as often as it occurs in the text with the repeats of its corpus. Words can be encoded
one by one, because no piece crosses a word boundary.
"""

from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, fields
from itertools import islice
from pathlib import Path
from typing import Any

import sentencepiece

from jadeberta.shards import ConfigError
from jadeberta.shards.tokenizer_format import UNK
from jadeberta.utils.text_table import format_table
from preprocess.segmenters.mecab import JumanDic
from preprocess.tokenization.sentencepiece_training import ModelOptions, read_counts, train_sentencepiece
from preprocess.tokenization.word_counts import WordCount

BATCH_WORDS = 20_000
"""Number of distinct words encoded at once."""


@dataclass(frozen=True)
class Coverage:
    """Figures of one model; shares from 0 to 1."""

    one_piece: float
    """Share of the running words that are one piece."""
    tokens_per_word: float
    """Average number of tokens of a running word."""
    unknown: float
    """Share of the tokens that are [UNK]."""


def measure(model: sentencepiece.SentencePieceProcessor, counts: Iterable[WordCount]) -> Coverage:
    """Measures a model on words with their counts; there must be at least one word."""
    words = whole = tokens = unknown = 0
    source = iter(counts)
    while batch := list(islice(source, BATCH_WORDS)):
        for (_, count), ids in zip(batch, model.encode([word for word, _ in batch]), strict=True):
            words += count
            tokens += count * len(ids)
            unknown += count * ids.count(UNK)
            # [UNK] is one token too, but no piece of its word.
            whole += count * (len(ids) == 1 and ids[0] != UNK)
    return Coverage(whole / words, tokens / words, unknown / tokens)


def compare(words: Path, model: Path, settings: dict[str, Any], dictionary: JumanDic) -> dict[str, Any]:
    """Compares a tokenizer with one of as many pieces that sentencepiece trains on the same words without our seeds.

    Args:
        words: file of words and counts, see `read_counts`.
        model: the tokenizer's `spm.model`.
        settings: those that the tokenizer was trained with; a `ModelOptions` that is not among them is the default.
        dictionary: the dictionary whose words are counted among the pieces.

    Returns:
        {"words", "distinct_words", "dictionary", "ours", "plain"}, the last two a `Coverage` and "jumandic": the share of the pieces
        that begin a word which are words of the dictionary.

    Raises:
        ConfigError: sentencepiece alone cannot find that many pieces in these words.
    """
    ours = sentencepiece.SentencePieceProcessor(model_file=str(model))
    try:
        # Same words, same options: only the seeds differ.
        options = {option.name: settings[option.name] for option in fields(ModelOptions) if option.name in settings}
        proto = train_sentencepiece(words, None, ModelOptions(**options | {"vocab_size": len(ours)}))
    except RuntimeError as e:
        raise ConfigError(
            f"{words}: sentencepiece alone finds no {len(ours):,} pieces in it. There is nothing to compare with."
        ) from e
    found: dict[str, Any] = {
        "words": sum(count for _, count in read_counts(words)),
        "distinct_words": sum(1 for _ in read_counts(words)),
        "dictionary": dictionary.description,
    }
    for name, processor in (("ours", ours), ("plain", sentencepiece.SentencePieceProcessor(model_proto=proto))):
        initial = list(_word_pieces(processor))
        known = sum(word in dictionary for word in initial)
        found[name] = asdict(measure(processor, read_counts(words))) | {"jumandic": known / max(1, len(initial))}
    return found


def describe(found: dict[str, Any]) -> str:
    """Returns the result of `compare` as a table in plain text."""
    rows = {
        "running words in one piece": ("one_piece", ".2%"),
        "tokens a word": ("tokens_per_word", ".4f"),
        "tokens that are [UNK]": ("unknown", ".4%"),
        "word-initial pieces in JumanDIC": ("jumandic", ".2%"),
    }
    lines = [f"{found['words']:,} words, {found['distinct_words']:,} of them distinct; {found['dictionary']}"]
    cells = ([label, *(format(found[name][key], style) for name in ("ours", "plain"))] for label, (key, style) in rows.items())
    return "\n".join([*lines, format_table(["", "ours", "plain"], cells)])


def _word_pieces(model: sentencepiece.SentencePieceProcessor) -> Iterator[str]:
    """Yields the pieces that begin a word, without their word mark."""
    pieces = (model.id_to_piece(i) for i in range(len(model)))
    return (piece[1:] for piece in pieces if piece.startswith("▁") and len(piece) > 1)
