"""What sentencepiece is given and how it is run: words with their counts, and the pieces that it may choose from."""

import io
from collections.abc import Iterable, Iterator
from itertools import chain, groupby, islice
from operator import itemgetter
from pathlib import Path
from typing import Literal

import sentencepiece

from jadeberta.utils.files import atomic_file
from preprocess.tokenization.word_counts import Tally, WordCount

SPECIAL_TOKENS = ("[PAD]", "[CLS]", "[SEP]", "[UNK]", "[MASK]")
"""Their ids are their places here."""
MAX_PIECE_LENGTH = 16
MAX_SEEDS = 1_000_000
MIN_SEED_COUNT = 3
WORDS_AT_ONCE = 100
"""Of which the substrings are counted together."""
TRAINER_THREADS = 4
"""Part of the recipe: the trainer adds up floats per thread, so another number of threads could give another model."""


def seed_pieces(counts: Iterable[WordCount], scratch: Path) -> list[WordCount]:
    """Substrings inside a word with their counts in running text, the most useful first, at most a million.

    sentencepiece's own seeds are right-maximal substrings of the text, which leaves out most whole words of segmented Japanese:
    a word is always followed by the next one's word mark, so the maximal substring ends in that mark and is refused.

    Args:
        counts: of words, each once; fastest in the order of their counts.
        scratch: an empty folder for what does not fit into memory.
    """
    substrings = Tally(scratch)
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
    """Those of two characters or more, the mark of a word's start among them."""
    marked = f"▁{word}"
    length = len(marked)
    return [
        marked[start:end] for start in range(length - 1) for end in range(start + 2, min(length, start + MAX_PIECE_LENGTH) + 1)
    ]


def train_sentencepiece(
    words: Path,
    seeds: Path | None,
    vocab_size: int,
    character_coverage: float,
    model_type: Literal["unigram", "char"] = "unigram",
) -> bytes:
    """A sentencepiece model of the words and counts in a file of them; raises RuntimeError where it cannot have so many pieces.

    One of characters (`char`) has fewer pieces where the words have fewer characters.

    Args:
        words: as `read_counts` takes them.
        seeds: pieces to choose from, such a file too; None leaves that to sentencepiece.
        vocab_size: pieces of the model, special tokens included.
        character_coverage: share of the running characters that have pieces.
    """
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        # Not the file by its name: sentencepiece takes a comma in it for the end of the name.
        sentence_iterator=(f"{word}\t{count}" for word, count in read_counts(words)),
        input_format="tsv",
        model_writer=model,
        model_type=model_type,
        vocab_size=vocab_size,
        character_coverage=character_coverage,
        max_sentencepiece_length=MAX_PIECE_LENGTH,
        normalization_rule_name="identity",
        add_dummy_prefix=True,
        pad_id=0,
        pad_piece=SPECIAL_TOKENS[0],
        bos_id=1,
        bos_piece=SPECIAL_TOKENS[1],
        eos_id=2,
        eos_piece=SPECIAL_TOKENS[2],
        unk_id=3,
        unk_piece=SPECIAL_TOKENS[3],
        control_symbols=SPECIAL_TOKENS[4],
        num_threads=TRAINER_THREADS,
        minloglevel=1,
        seed_sentencepieces_file="" if seeds is None else str(seeds),
    )
    return model.getvalue()


def read_counts(path: Path) -> Iterator[WordCount]:
    """Words or pieces and their counts, as lines of the two with a tab between them."""
    with open(path, "rb") as f:
        for line in f:
            word, count = line.decode().rstrip("\n").split("\t")
            yield word, int(count)


def write_counts(path: Path, counts: Iterable[WordCount]) -> None:
    with atomic_file(path) as f:
        f.writelines(f"{word}\t{count}\n".encode() for word, count in counts)
