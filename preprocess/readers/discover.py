"""Finds the corpora in a folder by the names under which their projects publish them.

For `make shards CORPORA=folder`. Looks at the folder itself, not below it, and opens no file.
"""

import fnmatch
import glob
import re
from pathlib import Path

from jadeberta.shards import InputError
from preprocess.config import CorpusConfig
from preprocess.readers.input_split import stem

# The same pages are published in several ways; the first found is taken, as reading two would double Wikipedia.
WIKIPEDIA_PATTERNS = (
    "*wiki*-pages-articles-multistream.xml.bz2",
    "*wiki*-pages-articles-multistream[0-9]*.xml-p*.bz2",
    "*wiki*-pages-articles.xml.bz2",
    "*wiki*-pages-articles[0-9]*.xml-p*.bz2",
    "*wiki*pages-articles*.xml*.bz2",
    "*wiki*pages-articles*.xml",
)
CC100_PATTERNS = ("cc100*.xz", "ja.txt.xz", "cc100*.txt")
OSCAR_2201_PATTERN = "*_meta_*.jsonl.gz"
OSCAR_2301_PATTERN = "*_part_*.jsonl.zst"
JSONL_PATTERNS = ("*.jsonl", "*.jsonl.gz", "*.jsonl.zst", "*.jsonl.xz")
_USUAL_NAMES = "jawiki-*-pages-articles*.xml.bz2, cc100*.xz, ja.txt.xz, *_meta_part_N.jsonl.gz, *_part_N.jsonl.zst, *.jsonl"


def discover(folder: Path) -> dict[str, CorpusConfig]:
    """Returns the corpora in `folder` by name: wikipedia, cc100, oscar (oscar2201 and oscar2301 if there are both), others by file name.

    Raises:
        InputError: the folder is missing or holds no corpus, or it is not clear which file is meant.
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder; set CORPORA to the folder that holds the corpora.")
    names = sorted(path.name for path in folder.iterdir() if path.is_file() and not path.name.startswith("."))

    def config(format: str, pattern: str) -> CorpusConfig:
        return CorpusConfig(format=format, path=f"{glob.escape(str(folder))}/{pattern}")  # type: ignore[arg-type]

    corpora: dict[str, CorpusConfig] = {}
    for format, patterns in (("wikipedia", WIKIPEDIA_PATTERNS), ("cc100", CC100_PATTERNS)):
        pattern = next((p for p in patterns if fnmatch.filter(names, p)), None)
        if pattern is not None:
            corpora[format] = config(format, pattern)
            _refuse_several_dumps(folder, format, fnmatch.filter(names, pattern))
    oscar = {"oscar2201": OSCAR_2201_PATTERN, "oscar2301": OSCAR_2301_PATTERN}
    present = {name: pattern for name, pattern in oscar.items() if fnmatch.filter(names, pattern)}
    for name, pattern in present.items():
        corpora[name if len(present) == 2 else "oscar"] = config("oscar", pattern)
    for name in names:
        if any(fnmatch.fnmatch(name, p) for p in JSONL_PATTERNS) and not any(fnmatch.fnmatch(name, p) for p in oscar.values()):
            corpus = stem(Path(name))
            if corpus in corpora:
                raise InputError(
                    f"{folder / name}: a second corpus named {corpus}; rename the file or name the corpora in a recipe."
                )
            corpora[corpus] = config("jsonl", glob.escape(name))
    if not corpora:
        raise InputError(f"{folder}: no corpus in this folder; put files named like {_USUAL_NAMES} there or write a recipe.")
    return corpora


def _refuse_several_dumps(folder: Path, format: str, names: list[str]) -> None:
    """Dumps of two dates hold the same pages twice."""
    dates = sorted({match.group() for name in names if (match := re.search(r"\d{8}|latest", name))})
    if format == "wikipedia" and len(dates) > 1:
        raise InputError(f"{folder}: Wikipedia dumps of {' and '.join(dates)} in one folder; keep one of them or write a recipe.")
