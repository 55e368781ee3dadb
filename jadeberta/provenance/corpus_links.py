"""The links before the shards: the parts of words and documents under work/, and the files of the corpora."""

import os
import stat
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from jadeberta.provenance.links import Link, compare, folder_of_index
from jadeberta.provenance.safe_files import IS_LINK, UnsafeFile, name_fault, parse_object, read_inside, sha256_inside
from jadeberta.provenance.statement import Dependency
from jadeberta.shards.provenance import sha256_of_parts
from preprocess.readers.input_split import natural_key

MOST_FILES = 1_000_000
"""Files below the folders of the corpora whose names are looked at."""


def work_links(shards: Path | None, dependencies: Sequence[Dependency]) -> Iterator[Link]:
    """Checks the parts of words and documents of each corpus, where work/ is still beside the shards."""
    if shards is not None and not _is_folder(shards, "work"):
        shards = folder_of_index(shards)
    documents = {str(one.about.get("corpus")): one.digest for one in dependencies if one.kind == "documents"}
    for one in dependencies:
        if one.kind not in ("words", "documents"):
            continue
        corpus = str(one.about.get("corpus"))
        if not one.digest:
            yield Link(one.kind, "open", f"{corpus}: not recorded, made by an older version")
        elif name_fault(corpus) or "/" in corpus:
            yield Link(one.kind, "wrong", f"the corpus {corpus[:40]!a} in provenance.json can be none")
        else:
            yield _parts(shards, one.kind, corpus, one.digest)
        if one.kind == "words" and (read := str(one.about.get("documents_sha256", ""))) and documents.get(corpus):
            yield compare("words", f"{corpus}, of documents", documents[corpus], read)


def _parts(shards: Path | None, kind: str, corpus: str, expected: str) -> Link:
    """Checks the parts of a corpus; the markers of the documents say which there are, in which order."""
    folder = f"work/documents/{corpus}"
    if shards is None or not _is_folder(shards, folder) or not _is_folder(shards, f"work/{kind}/{corpus}"):
        return Link(kind, "open", f"{corpus}: cannot be checked here; name shards with their work/ by --shards DIR")
    names = []
    try:
        markers = sorted((p.name for p in (shards / folder).iterdir() if p.suffix == ".json"), key=natural_key)
        for marker in markers:
            names += [part["file"] for part in parse_object(read_inside(shards, f"{folder}/{marker}"))["parts"]]
        found = sha256_of_parts([(name, sha256_inside(shards, f"work/{kind}/{corpus}/{name}")[1]) for name in names])
    except (UnsafeFile, OSError, KeyError, TypeError) as e:
        return Link(kind, "wrong", f"their parts cannot be read ({e})", f"work/{kind}/{corpus}")
    return compare(kind, f"work/{kind}/{corpus}", expected, found or "", f"{len(names):,} parts, sha256 of their list")


def _is_folder(top: Path, name: str) -> bool:
    """Whether a folder is there, and no link on the way to it."""
    path = top
    for part in name.split("/"):
        path = path / part
        if path.is_symlink() or not path.is_dir():
            return False
    return True


def raw_links(folders: Sequence[Path], dependencies: Sequence[Dependency]) -> Iterator[Link]:
    """Checks the files of the corpora that are in some folders.

    Args:
        folders: named by the user; a file may lie anywhere below.
        dependencies: of all kinds.
    """
    raw = [one for one in dependencies if one.kind == "raw file"]
    files = _Files(raw)
    for folder in folders if raw else ():
        if not files.add(folder):
            what = f"more than {MOST_FILES:,} files lie below; only the first are looked at, so name the folders of the corpora"
            yield Link("raw file", "open", what, str(folder))
    good: dict[str, int] = {}
    away: dict[str, list[str]] = {}
    for one in raw:
        corpus, name = _place(one)
        if not one.digest:
            yield Link("raw file", "open", "its hash is not recorded, an older version read it", one.name)
        elif fault := name_fault(name):
            yield Link("raw file", "wrong", f"{name[:60]!a} in provenance.json {fault}")
        elif checked := files.best(one):
            good[corpus] = good.get(corpus, 0) + (checked.state == "good")
            if checked.state != "good":
                yield checked
        else:
            away.setdefault(corpus, []).append(name)
    for corpus, number in good.items():
        if number:
            yield Link("raw file", "good", f"{corpus}: {number:,} files by their sha256")
    for corpus, names in away.items():
        more = f" and {len(names) - 1:,} more" if len(names) > 1 else ""
        remedy = "not in the folders of --corpora; name theirs too" if folders else "cannot be checked here; name --corpora DIR"
        yield Link("raw file", "open", f"{corpus}: {names[0]}{more}: {remedy}")
    if not raw:
        yield Link("raw file", "open", "not known here; see the links before")


def _place(raw: Dependency) -> tuple[str, str]:
    """Corpus of a file, and its name within the corpus."""
    return str(raw.about.get("corpus")), str(raw.about.get("file", raw.name))


def _fits(raw: Dependency, inside: str) -> bool:
    """Whether a path within a folder of --corpora can mean this file alone."""
    corpus, name = _place(raw)
    return inside in (name, f"{corpus}/{name}")


class _Files:
    """Files below the folders of the corpora that have the last name of one that is looked for.

    Names repeat, as train.jsonl and wiki_00 do: a file whose place fits is asked first, then those of the right size, and none twice.
    """

    def __init__(self, raw: Sequence[Dependency]) -> None:
        self._wanted = Counter(_place(one)[1].rsplit("/", 1)[-1] for one in raw)
        self._owners: dict[str, list[Dependency]] = {}
        for one in raw:
            if one.digest:
                self._owners.setdefault(one.digest, []).append(one)
        self._folders: dict[str, list[Path]] = {}
        self._by_size: dict[str, dict[int, list[tuple[Path, str]]]] = {}
        self._hashes: dict[tuple[Path, str], str | UnsafeFile] = {}

    def add(self, folder: Path) -> bool:
        """Looks below a folder; links to folders are not followed. Returns whether it has seen all."""
        number = 0
        for where, _, names in os.walk(folder):
            number += len(names)
            if number > MOST_FILES:
                return False
            for name in names:
                path = Path(where) / name
                inside = path.relative_to(folder).as_posix() if name in self._wanted else ""
                if not inside or name_fault(inside):
                    continue
                try:
                    found = path.lstat()
                except OSError:
                    continue
                # What is no file is refused before it is read, whatever its size.
                size = found.st_size if stat.S_ISREG(found.st_mode) else -1
                self._folders.setdefault(inside, []).append(folder)
                self._by_size.setdefault(name, {}).setdefault(size, []).append((folder, inside))
        return True

    def best(self, raw: Dependency) -> Link | None:
        """Checks the files that may be meant; the first that is right counts. None: none of them is meant."""
        corpus, name = _place(raw)
        last = name.rsplit("/", 1)[-1]
        fitting = [(folder, inside) for inside in (f"{corpus}/{name}", name) for folder in self._folders.get(inside, ())]
        sizes, size = self._by_size.get(last, {}), raw.about.get("bytes")
        others = [*sizes.get(size, ()), *sizes.get(-1, ())] if isinstance(size, int) else [c for s in sizes.values() for c in s]
        # One file of this name, and nothing else that it could be.
        is_alone = self._wanted[last] == 1 and sum(map(len, sizes.values())) == 1
        fault: Link | None = None
        for folder, inside in [*fitting, *sorted(others, key=lambda c: not c[1].endswith(f"/{name}"))]:
            checked = self._check(raw, folder, inside)
            if checked.state == "good":
                return checked
            is_another = any(_fits(owner, inside) for owner in self._owners.get(checked.found, ()))
            if fault is None and not is_another and (is_alone or _fits(raw, inside)):
                fault = checked
        return fault

    def _check(self, raw: Dependency, folder: Path, inside: str) -> Link:
        if (folder, inside) not in self._hashes:
            try:
                self._hashes[folder, inside] = sha256_inside(folder, inside)[1]
            except UnsafeFile as e:
                self._hashes[folder, inside] = e
        found = self._hashes[folder, inside]
        if isinstance(found, str):
            return compare("raw file", inside, raw.digest, found)
        return Link("raw file", "open" if str(found) == IS_LINK else "wrong", str(found), inside)
