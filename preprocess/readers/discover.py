"""Finds the corpora in a folder and below it: by the names under which their projects publish them, and others by name or first line.

For `make shards CORPORA=folder`. What is taken, what is left, and why, is logged. Where it is not clear which files are one corpus, the
user is asked to name them.
"""

import fnmatch
import glob
import logging
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

import orjson

from jadeberta.shards import INDEX_NAME, InputError
from preprocess.compressed import DECOMPRESSORS, DamagedFile, chunks
from preprocess.config import CorpusConfig, CorpusFormat
from preprocess.readers import plain_text, wikiextractor
from preprocess.readers.archives.entries import is_archive, reason_against
from preprocess.readers.archives.members import member_names
from preprocess.readers.input_split import natural_key, stem
from preprocess.readers.jsonl import TEXT_KEYS
from preprocess.readers.published_sets import EVERYDAY_FOLDERS, gaps, held_out_part, is_numbered, is_other_set, removed_folder

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
ENTERPRISE_PATTERNS = ("*wiki*-NS0-*ENTERPRISE-HTML*.json.tar.gz", "*wiki*_namespace_0.tar.gz")
"""The same articles as HTML; those of other namespaces hold NS6, NS10 and so on."""
WARC_PATTERNS = ("*.warc.gz", "*.warc", "*.warc.wet.gz", "*.warc.wet")
NAMES_CHARACTERS = 52
"""Room for the names of files that are left, in a line of 80 columns with the time and the number of the others."""
_USUAL_NAMES = (
    "jawiki-*-pages-articles*.xml.bz2, cc100*.xz, ja.txt.xz, *_meta_part_N.jsonl.gz, *_part_N.jsonl.zst, *.jsonl, *.json.gz, "
    "*.parquet"
)
PLAIN_TEXT = "plain text; name it in a recipe (format: text, or cc100 where a blank line ends a document)"
_JSON = re.compile(r"\.(jsonl|json|ndjson)(\.(gz|zst|xz|bz2))?$")
JSON_LINES = re.compile(r"\.(jsonl|ndjson)(\.(gz|zst|xz|bz2))?$")
_HEAD_BYTES = 2**20
_MEMBERS_LOOKED_AT = 100
_NUMBER, _LETTERS = "\ue000", "\ue001"
"""Stand for a number, and for WikiExtractor's AA, AB ..., in the names of a series."""

log = logging.getLogger(__name__)


@dataclass
class Series:
    """Files that differ in numbers alone, and are one corpus."""

    format: CorpusFormat
    pattern: str
    """Glob, relative to the folder."""
    files: list[str]
    """Relative to the folder, in order."""
    skeleton: str = ""
    """Their name with `_NUMBER` in place of numbers."""


@dataclass
class _Survey:
    """What is known of a folder's files."""

    folder: Path
    series: dict[str, Series] = field(default_factory=dict)
    left: dict[str, list[str]] = field(default_factory=dict)
    """Files that are not taken, by the reason."""

    def leave(self, name: str, reason: str) -> None:
        self.left.setdefault(reason, []).append(name)

    def take(self, name: str, series: Series) -> None:
        if (other := self.series.get(name)) is not None:
            problem = f"{series.files[0]} would be a second corpus named {name}, as {other.files[0]} is one"
            raise _question(self.folder, problem, {name: other, f"{name}-2": series})
        self.series[name] = series


def discover(folder: Path) -> dict[str, CorpusConfig]:
    """Returns the corpora in `folder` by name: wikipedia, cc100, oscar (oscar2201 and oscar2301 if there are both), others by file name.

    Raises:
        InputError: the folder is missing or holds no corpus, or it is not clear which file is meant.
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder; set CORPORA to the folder that holds the corpora.")
    survey = _Survey(folder)
    names = _walk(survey)
    rest = _take_published(survey, names)
    _take_others(survey, rest)
    if not survey.series:
        _log(survey)
        raise InputError(f"{folder}: no corpus in this folder; put files named like {_USUAL_NAMES} there or write a recipe.")
    _log(survey)
    return {name: CorpusConfig(series.format, _path(folder, series)) for name, series in survey.series.items()}


def _walk(survey: _Survey) -> list[str]:
    """Returns the files in the folder and below it, relative to it; hidden ones and the output of the stages are not looked at."""
    found = []

    def leave_folder(error: OSError) -> None:
        survey.leave(f"{Path(error.filename).relative_to(survey.folder)}/", "cannot be read")

    for top, folders, files in os.walk(survey.folder, onerror=leave_folder, followlinks=False):
        inside = Path(top).relative_to(survey.folder)
        # os.path, as a folder may be listed whose files may not be looked at.
        has_lock = os.path.exists(Path(top) / "work" / ".lock")  # noqa: PTH110
        if has_lock or (INDEX_NAME in files and any(file.endswith(".tar") for file in files)):
            survey.leave(f"{inside}/", "the output of these stages")
            folders.clear()
            continue
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in sorted(name for name in files if not name.startswith(".")):
            path = (inside / name).as_posix()
            if os.path.isfile(survey.folder / path):  # noqa: PTH113
                found.append(path)
            else:
                # A pipe would keep its reader waiting.
                survey.leave(path, "not a file, or a link to none")
    return sorted(found, key=natural_key)


def _take_published(survey: _Survey, names: list[str]) -> list[str]:
    """Takes the corpora that have names of their own, and returns the other files."""
    rest = list(names)
    published: tuple[tuple[CorpusFormat, tuple[str, ...]], ...] = (
        ("wikipedia", WIKIPEDIA_PATTERNS),
        ("cc100", CC100_PATTERNS),
        ("enterprise_html", ENTERPRISE_PATTERNS),
        ("warc", WARC_PATTERNS),
    )
    for format, patterns in published:
        found = {pattern: _matching(rest, pattern) for pattern in patterns}
        chosen = next((pattern for pattern in patterns if found[pattern]), None)
        if chosen is None:
            continue
        taken = {name for group in found.values() for name in group}
        if format == "enterprise_html" and (dump := survey.series.get("wikipedia")) is not None:
            kept, first = set[str](), Path(dump.files[0]).name
        else:
            kept, first = set(found[chosen]), Path(found[chosen][0]).name
            _take_named(survey, "wikipedia" if format == "enterprise_html" else format, format, found[chosen], chosen)
        for name in sorted(taken - kept):
            if format == "warc" and not _has_pages(name, kept):
                choices = {
                    which: Series(format, glob.escape(path), [path])
                    for which, path in (("warc", found[chosen][0]), ("wet", name))
                }
                raise _question(
                    survey.folder, f"{name} is the text of pages that are in none of the WARC files beside {first}", choices
                )
            survey.leave(name, f"holds what {first} holds")
        rest = [name for name in rest if name not in taken]
        if format == "wikipedia":
            # Index files are read beside their dump.
            rest = [name for name in rest if not re.search(r"-multistream-index\d*\.txt", name)]
    oscar = {"oscar2201": OSCAR_2201_PATTERN, "oscar2301": OSCAR_2301_PATTERN}
    present = {name: files for name, pattern in oscar.items() if (files := _matching(rest, pattern))}
    for name, files in present.items():
        _take_named(survey, name if len(present) == 2 else "oscar", "oscar", files, oscar[name])
    return [name for name in rest if not any(name in files for files in present.values())]


def _has_pages(name: str, others: set[str]) -> bool:
    """Returns whether one of the other files holds the pages of a WARC or WET file: it is named alike."""
    bare = {re.sub(r"\.warc(\.wet)?(\.gz)?$", "", Path(other).name) for other in others}
    return re.sub(r"\.warc(\.wet)?(\.gz)?$", "", Path(name).name) in bare


def _matching(names: Iterable[str], pattern: str) -> list[str]:
    return [name for name in names if fnmatch.fnmatchcase(Path(name).name, pattern)]


def _take_named(survey: _Survey, name: str, format: CorpusFormat, files: list[str], pattern: str) -> None:
    folders = sorted({str(Path(file).parent) for file in files})
    dates = sorted({match.group() for file in files if (match := re.search(r"\d{8}|latest", Path(file).name))})
    by_folder = {f: Series(format, f"{glob.escape(f)}/{pattern}" if f != "." else pattern, files) for f in folders}
    if name == "wikipedia" and len(dates) > 1:
        # Dumps of two dates hold the same pages twice.
        choices = {name: Series(format, glob.escape(files[0]), files[:1])}
        raise _question(survey.folder, f"Wikipedia dumps of {' and '.join(dates)} in one folder", choices)
    if len(folders) > 1:
        choices = {f"{name}-{number}": series for number, series in enumerate(by_folder.values(), 1)}
        raise _question(
            survey.folder, f"{format} files in {' and in '.join(folders)}, which may be one corpus or several", choices
        )
    survey.take(name, by_folder[folders[0]])


def _take_others(survey: _Survey, names: list[str]) -> None:
    """Takes JSON Lines, Parquet and the output of WikiExtractor; files that differ in numbers alone are one corpus."""
    groups: dict[tuple[str, CorpusFormat], list[str]] = {}
    for name in names:
        format, reason = _format_of(survey.folder / name)
        if format is not None and removed_folder(name):
            format, reason = None, "named like what the makers of a set left out; name it in a recipe to train on it"
        if format is None:
            survey.leave(name, reason)
        else:
            groups.setdefault((_skeleton(name), format), []).append(name)
    found = [_series(survey, skeleton, format, files) for (skeleton, format), files in groups.items()]
    for series in list(found):
        if _is_held_out(series, found):
            found.remove(series)
            for name in series.files:
                survey.leave(name, "named like held-out data; name it in a recipe to train on it")
    words = [_folder_word(series) or _name_of(series, survey.folder) for series in found]
    for series, word in zip(found, words, strict=True):
        alone = words.count(word) == 1 or not _folder_word(series)
        survey.take(word if alone else f"{word}-{_name_of(series, survey.folder)}", series)


def _is_held_out(series: Series, found: list[Series]) -> bool:
    """Returns whether files are the held-out part of a set: by their folder, their number "of" others, or training files beside them."""
    name = series.files[0]
    part = held_out_part(name)
    if not part:
        return False
    siblings = [other for other in found if Path(other.skeleton).parent == Path(series.skeleton).parent]
    beside = any(_file_word(other).startswith("train") for other in siblings)
    return part in Path(name).parts[:-1] or is_numbered(name) or beside


def _format_of(path: Path) -> tuple[CorpusFormat | None, str]:
    """Returns the format of a file without a published name, or None and why it is not taken."""
    if is_archive(path):
        return _format_of_archive(path)
    is_json = _JSON.search(path.name)
    if is_json and is_json[1] == "jsonl":
        return "jsonl", ""
    if path.suffix == ".parquet":
        return "parquet", ""
    if path.suffix == ".arrow":
        return None, "Arrow, as datasets.save_to_disk writes it; write Parquet by to_parquet()"
    bare = path.name.removesuffix(path.suffix) if path.suffix in DECOMPRESSORS else path.name
    if not is_json and Path(bare).suffix not in ("", ".txt"):
        return None, "not a format that is read"
    try:
        head = b"".join(islice(chunks(path), 1))[:_HEAD_BYTES].removeprefix(b"\xef\xbb\xbf").lstrip()
    except (OSError, InputError, DamagedFile):
        return None, "cannot be read"
    if not head:
        return None, "empty"
    if head.startswith(b"<doc "):
        return "wikiextractor", ""
    if head.startswith(b"["):
        return None, "a JSON array; write one object a line: jq -c '.[]'"
    if head.startswith(b"{"):
        try:
            row = orjson.loads(head.split(b"\n", 1)[0])
        except orjson.JSONDecodeError:
            row = None
        if isinstance(row, dict) and any(key in row for key in TEXT_KEYS):
            return "jsonl", ""
        return None, 'not one JSON object a line with "text" or "content"'
    if Path(bare).suffix == ".txt":
        return None, PLAIN_TEXT
    return None, "not a format that is read"


def _format_of_archive(path: Path) -> tuple[CorpusFormat | None, str]:
    """Returns the format of an archive's first member that has one, or None and why it is not taken."""
    try:
        for name in islice(member_names(path), _MEMBERS_LOOKED_AT):
            if not reason_against(name, wikiextractor.MEMBERS):
                return "wikiextractor", ""
            if not reason_against(name, JSON_LINES):
                return "jsonl", ""
            if not reason_against(name, plain_text.MEMBERS):
                return None, PLAIN_TEXT
    except (OSError, InputError, DamagedFile):
        return None, "cannot be read"
    return None, "an archive without JSON Lines"


def _skeleton(name: str) -> str:
    return re.sub(rf"(^|/)[A-Z]{{2}}(?=/wiki_{_NUMBER})", rf"\1{_LETTERS}", re.sub(r"[0-9]+", _NUMBER, name))


def _series(survey: _Survey, skeleton: str, format: CorpusFormat, files: list[str]) -> Series:
    """Returns the files of a skeleton as one corpus; asks where they may be several."""
    if len(files) == 1:
        return Series(format, glob.escape(files[0]), files, files[0])
    numbers = list(zip(*(re.findall(r"[0-9]+", name) for name in files), strict=True))
    last = sorted({int(number) for number in next((run for run in reversed(numbers) if len(set(run)) > 1), ("0",))})
    runs = iter(numbers)
    # A number that is the same in all of them is part of the name.
    skeleton = re.sub(_NUMBER, lambda _: run[0] if len(set(run := next(runs))) == 1 else _NUMBER, skeleton)
    pattern = glob.escape(skeleton).replace(_NUMBER, "[0-9]*").replace(_LETTERS, "[A-Z][A-Z]")
    counted = last[0] <= 1 or last[-1] - last[0] + 1 == len(last) or re.search(rf"{_NUMBER}[-_.]of[-_.][0-9]", skeleton)
    if other := next((name for name in files if is_other_set(files[0], name)), None):
        choices = {
            f"{_clean(skeleton) or format}-{part}": Series(format, glob.escape(name), [name])
            for part, name in enumerate((files[0], other), 1)
        }
        raise _question(survey.folder, f"{files[0]} and {other} are parts of two sets of different sizes", choices)
    if not counted or set(glob.glob(pattern, root_dir=survey.folder)) != set(files):  # noqa: PTH207 - as the reader does it
        choices = {_clean(stem(Path(name))): Series(format, glob.escape(name), [name]) for name in files[:2]}
        problem = f"{files[0]} and {files[1]} differ in a number alone, and may be parts of one corpus or corpora of their own"
        raise _question(survey.folder, problem, choices)
    return Series(format, pattern, files, skeleton)


def _clean(text: str) -> str:
    """Returns the letters and digits of a name, without numbers that count parts."""
    text = re.sub(rf"({_NUMBER}|[0-9]+)[-_.]of[-_.]({_NUMBER}|[0-9]+)", "", text).replace(_NUMBER, "").replace(_LETTERS, "")
    return "-".join(part for part in re.split(r"[^\w]+|[-_]{2,}", text) if part).strip("-_")


def _file_word(series: Series) -> str:
    return _clean(stem(Path(series.skeleton)))


def _folder_word(series: Series) -> str:
    parts = [part for part in Path(series.skeleton).parts[:-1] if part not in EVERYDAY_FOLDERS]
    return "-".join(word for part in parts if (word := _clean(part)))


def _name_of(series: Series, folder: Path) -> str:
    return _file_word(series) or _clean(folder.resolve().name) or series.format


def _path(folder: Path, series: Series) -> str:
    return f"{glob.escape(str(folder))}/{series.pattern}"


def _question(folder: Path, problem: str, choices: dict[str, Series]) -> InputError:
    """Returns the error that asks the user to name the corpora, with the lines to write."""
    lines = ["preprocess:", "  corpora:"]
    for name, series in choices.items():
        lines += [f"    {name}:", f"      format: {series.format}", f"      path: {_path(folder, series)}"]
    remedy = "keep one of them, or leave CORPORA out and write lines like these into the recipe"
    return InputError(f"{folder}: {problem}; {remedy}.", *lines)


def _log(survey: _Survey) -> None:
    """Says what is taken and what is left."""
    log.info("%s:", survey.folder)
    for name, series in survey.series.items():
        size = sum((survey.folder / file).stat().st_size for file in series.files)
        count = "1 file" if len(series.files) == 1 else f"{len(series.files):,} files"
        log.info("  %s: %s, %s, %s MB", name, series.format, count, f"{size / 1e6:,.1f}")
        log.info("    %s", series.pattern)
        for gap in gaps(series.files):
            log.warning("    %s", gap)
        if held_out_part(series.files[0]):
            log.warning(
                "    %s is named like held-out data, and is taken as nothing for training lies beside it", series.files[0]
            )
    for reason, names in survey.left.items():
        log.info("  left, %s:", reason)
        log.info("    %s", _shortened(names))


def _shortened(names: list[str]) -> str:
    """Returns the first names, as many as fit a line, and the number of the others."""
    shown = 1
    while shown < len(names) and sum(map(len, names[: shown + 1])) + 2 * shown <= NAMES_CHARACTERS:
        shown += 1
    more = f" and {len(names) - shown:,} more" if len(names) > shown else ""
    return ", ".join(names[:shown]) + more
