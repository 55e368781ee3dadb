"""What file names tell about a published set: which files are its held-out parts, and whether a numbered series is whole.

Hugging Face's names are train-00000-of-00010.parquet, data/train-00000-of-00010.parquet and data/jpn_Jpan/train/000_00000.parquet.
"""

import re
from collections.abc import Iterable
from pathlib import Path

HELD_OUT = ("valid", "validation", "val", "dev", "devel", "test", "eval", "evaluation", "heldout", "held-out", "held_out")
"""Names of the parts of a data set that are not for training."""
EVERYDAY_FOLDERS = ("data", "train", "default")
"""Folders that say nothing about what is in them."""
REMOVED = re.compile(r"[-_](removed|rejected|filtered-out)$")
"""Ends the name of a folder with what the makers of a set left out, as FineWeb-2's jpn_Jpan_removed."""
MAX_NAMED = 3
"""Most missing files that are named."""
MAX_MEMBERS = 10**6
_MEMBER = re.compile(r"(?P<before>.*?)(?P<number>[0-9]+)(?P<of>[-_.]of[-_.])(?P<count>[0-9]+)(?P<behind>.*)")


def held_out_part(name: str) -> str:
    """Returns the word by which a file, or a folder that it lies in, is a held-out part of a set; empty where none is.

    Args:
        name: the path below the folder of the corpora.
    """
    *folders, file = Path(name).parts
    for folder in folders:
        if folder.lower() in HELD_OUT:
            return folder
    word = re.match(r"[A-Za-z_-]+?(?=[-_.]?[0-9]|\.|$)", file)
    return word[0] if word is not None and word[0].lower() in HELD_OUT else ""


def is_numbered(name: str) -> bool:
    """Returns whether a file says of how many it is one, as test-00000-of-00001.parquet does."""
    return _MEMBER.fullmatch(Path(name).name) is not None


def is_other_set(name: str, other: str) -> bool:
    """Returns whether two numbered files of one folder are of series of different sizes, as two downloads of a set would leave them."""
    one, two = (_MEMBER.fullmatch(Path(path).name) for path in (name, other))
    return one is not None and two is not None and Path(name).parent == Path(other).parent and one["count"] != two["count"]


def removed_folder(name: str) -> str:
    """Returns the folder by which a file is what the makers of a set left out; empty where none is."""
    return next((folder for folder in Path(name).parts[:-1] if REMOVED.search(folder.lower())), "")


def gaps(names: Iterable[str]) -> list[str]:
    """Returns a sentence for each numbered series of which files are missing; nothing for whole ones.

    Args:
        names: the paths of all files of a corpus.
    """
    series: dict[tuple[str, str, str, str, int], dict[int, int]] = {}
    for name in names:
        path = Path(name)
        if (match := _MEMBER.fullmatch(path.name)) is not None and 0 < int(match["count"]) <= MAX_MEMBERS:
            key = (str(path.parent), match["before"], match["of"], match["count"] + match["behind"], int(match["count"]))
            series.setdefault(key, {})[int(match["number"])] = len(match["number"])
    said = []
    for (folder, before, of, behind, count), numbers in sorted(series.items()):
        # Most count from 0, some from 1.
        first = 1 if 0 not in numbers and count in numbers else 0
        missing = [number for number in range(first, first + count) if number not in numbers]
        if missing:
            digits = max(numbers.values())
            names_ = [f"{before}{number:0{digits}d}{of}{behind}" for number in missing[:MAX_NAMED]]
            more = f" and {len(missing) - MAX_NAMED:,} more" if len(missing) > MAX_NAMED else ""
            there = f"{len(missing):,} of {count:,} files are missing in {folder}"
            said.append(f"{there}: {', '.join(names_)}{more}; go on if the part is meant, else fetch them")
    return said
