"""Word counts of the segmented corpus: each share is counted into a file, one process adds up all of them.

Promises counts that do not depend on how the parts were shared out.
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from preprocess.files import read_jsonl_zst, write_jsonl_zst
from preprocess.segment import read_words


@dataclass(frozen=True)
class Share:
    """Segmented parts that are counted together, each with its weight, and the file of their words."""

    parts: list[tuple[Path, int]]
    path: Path


def count_words(parts: Iterable[tuple[Path, int]]) -> Counter[str]:
    """Words of some segmented parts, those of each part counted as often as the number beside it says."""
    counts: Counter[str] = Counter()
    for part, weight in parts:
        once: Counter[str] = Counter()
        for row in read_words(part):
            for sentence in row["sentences"]:
                once.update(sentence.split(" "))
        for word, count in once.items():
            counts[word] += count * weight
    return counts


def write_counts(share: Share) -> None:
    """Counts the words of a share into its file."""
    counts = count_words(share.parts)
    write_jsonl_zst(share.path, ({"word": word, "count": count} for word, count in counts.items()))


def add_up(shares: list[Share]) -> Counter[str]:
    """The words of all shares."""
    counts: Counter[str] = Counter()
    for share in shares:
        for row in read_jsonl_zst(share.path):
            counts[row["word"]] += row["count"]
    return counts
