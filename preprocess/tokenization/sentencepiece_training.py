"""Runs the sentencepiece trainer on words with their counts, and makes the seed pieces that it chooses from."""

import io
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from itertools import chain, groupby, islice
from operator import itemgetter
from pathlib import Path
from typing import Any, Literal

import sentencepiece

from jadeberta.shards.tokenizer_format import CLS, PAD, SEP, SPECIAL_TOKENS, UNK
from jadeberta.utils.files import atomic_file
from preprocess.tokenization.sentence_sample import LONGEST_SENTENCE
from preprocess.tokenization.word_counts import SpillingCounter, WordCount

MAX_PIECE_LENGTH = 16
"""Largest number of characters in a piece, word mark included."""
MAX_SEEDS = 1_000_000
MIN_SEED_COUNT = 3
WORDS_AT_ONCE = 100
"""Number of words whose substrings are counted together."""
TRAINER_THREADS = 4
"""Part of the recipe: the trainer adds up floats per thread, so another number of threads could give another model."""


def seed_pieces(counts: Iterable[WordCount], scratch: Path) -> list[WordCount]:
    """Returns substrings of words with their counts in running text, the most useful first, at most a million.

    sentencepiece's own seeds are right-maximal substrings of the text, which leaves out most whole words of segmented Japanese:
    a word is always followed by the next one's word mark, so the maximal substring ends in that mark and is refused.

    Args:
        counts: words with their counts, each word once; fastest in the order of the counts.
        scratch: an empty folder, for counts that do not fit into memory.
    """
    substrings = SpillingCounter(scratch)
    for count, words in groupby(counts, itemgetter(1)):
        while some := [word for word, _ in islice(words, WORDS_AT_ONCE)]:
            substrings.count(chain.from_iterable(map(_substrings, some)), count)
    most: list[tuple[int, str, int]] = []
    frequent = ((-count * len(piece), piece, count) for piece, count in substrings.merged() if count >= MIN_SEED_COUNT)
    while more := list(islice(frequent, MAX_SEEDS // 4)):
        # A list in order and one that is not are sorted together in half the time that a heap of so many takes.
        most = sorted(most + more)[:MAX_SEEDS]
    return [(piece, count) for _, piece, count in most]


def _substrings(word: str) -> list[str]:
    """Returns the substrings of at least two characters, counting the mark of the word's start as one."""
    marked = f"▁{word}"
    length = len(marked)
    return [
        marked[start:end] for start in range(length - 1) for end in range(start + 2, min(length, start + MAX_PIECE_LENGTH) + 1)
    ]


@dataclass(frozen=True)
class ModelOptions:
    """What a sentencepiece model is trained to be; the defaults behind the size are those of the published recipe."""

    vocab_size: int
    """Number of pieces, special tokens included."""
    character_coverage: float
    """Share of the running characters that become pieces."""
    model_type: Literal["unigram", "bpe", "char"] = "unigram"
    """unigram or bpe (subwords), or char, which has fewer pieces where the words have fewer characters."""
    byte_fallback: bool = False
    """Write unknown characters as bytes."""
    split_digits: bool = False
    """Make each digit a piece of its own."""
    normalization_rule_name: str = "identity"
    """Normalisation inside the model."""

    def trainer_options(self) -> dict[str, Any]:
        """Keyword arguments of sentencepiece's trainer; an option that is off is left out, as it would stand in the model's file."""
        return {name: value for name, value in asdict(self).items() if value is not False}


def train_sentencepiece(words: Path, seeds: Path | None, options: ModelOptions) -> bytes:
    """Trains a sentencepiece model on words and returns its serialised bytes.

    Args:
        words: file of words and counts, see `read_counts`.
        seeds: file of pieces to choose from, with counts; None: sentencepiece makes its own.
        options: of the model.

    Raises:
        RuntimeError: the words do not give that many pieces.
    """
    # The words and not the file's name: sentencepiece takes a comma in it for the end of the name.
    lines = (f"{word}\t{count}" for word, count in read_counts(words))
    seed_file = "" if seeds is None else str(seeds)
    return _train(lines, options, input_format="tsv", add_dummy_prefix=True, seed_sentencepieces_file=seed_file)


def train_on_text(sentences: Iterable[str], options: ModelOptions) -> bytes:
    """Trains a sentencepiece model on text without words and returns its serialised bytes.

    The model keeps the text's spaces, and puts none in front of it: a sentence of Japanese begins like any other place.

    Raises:
        RuntimeError: the text does not give that many pieces.
    """
    return _train(
        iter(sentences),
        options,
        add_dummy_prefix=False,
        remove_extra_whitespaces=False,
        max_sentence_length=LONGEST_SENTENCE,
    )


def _train(lines: Iterator[str], options: ModelOptions, **of_input: Any) -> bytes:
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=lines,
        model_writer=model,
        max_sentencepiece_length=MAX_PIECE_LENGTH,
        pad_id=PAD,
        pad_piece=SPECIAL_TOKENS[PAD],
        bos_id=CLS,
        bos_piece=SPECIAL_TOKENS[CLS],
        eos_id=SEP,
        eos_piece=SPECIAL_TOKENS[SEP],
        unk_id=UNK,
        unk_piece=SPECIAL_TOKENS[UNK],
        control_symbols=SPECIAL_TOKENS[UNK + 1],
        num_threads=TRAINER_THREADS,
        minloglevel=1,
        **options.trainer_options(),
        **of_input,
    )
    return model.getvalue()


def read_counts(path: Path) -> Iterator[WordCount]:
    """Yields words or pieces with their counts from a file with one tab-separated pair a line."""
    with open(path, "rb") as f:
        for line in f:
            word, count = line.decode().rstrip("\n").split("\t")
            yield word, int(count)


def write_counts(path: Path, counts: Iterable[WordCount]) -> None:
    """Writes the file that `read_counts` reads, atomically."""
    with atomic_file(path) as f:
        f.writelines(f"{word}\t{count}\n".encode() for word, count in counts)
