"""The links before the shards: the parts of words and documents under work/, and the files of the corpora."""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from jadeberta.provenance.links import Link, compare
from jadeberta.provenance.safe_files import UnsafeFile, name_fault, parse_object, read_inside, sha256_inside
from jadeberta.provenance.statement import Dependency
from jadeberta.shards.provenance import sha256_of_parts
from preprocess.readers.input_split import natural_key

MOST_FILES = 1_000_000
"""Files below the folders of the corpora whose names are looked at."""


def work_links(shards: Path | None, links: Sequence[Dependency]) -> Iterator[Link]:
    """Checks the parts of words and documents of each corpus, where work/ is still beside the shards."""
    documents = {str(link.about.get("corpus")): link.digest for link in links if link.kind == "documents"}
    for link in links:
        if link.kind not in ("words", "documents"):
            continue
        corpus = str(link.about.get("corpus"))
        if not link.digest:
            yield Link(link.kind, "open", f"{corpus}: not recorded, made by an older version")
        elif name_fault(corpus) or "/" in corpus:
            yield Link(link.kind, "wrong", f"the corpus {corpus[:40]!a} in provenance.json can be none")
        else:
            yield _parts(shards, link.kind, corpus, link.digest)
        if link.kind == "words" and (read := str(link.about.get("documents_sha256", ""))) and documents.get(corpus):
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


def raw_links(folders: Sequence[Path], links: Sequence[Dependency]) -> Iterator[Link]:
    """Checks the files of the corpora that are in some folders.

    Args:
        folders: named by the user; a file may lie anywhere below.
        links: of all kinds.
    """
    raw = [link for link in links if link.kind == "raw file"]
    found: dict[str, list[tuple[Path, str]]] = {}
    for folder in folders if raw else ():
        _add_names(folder, found)
    good: dict[str, int] = {}
    away: dict[str, list[str]] = {}
    for link in raw:
        corpus, name = str(link.about.get("corpus")), str(link.about.get("file", link.name))
        if not link.digest:
            yield Link("raw file", "open", "its hash is not recorded, an older version read it", link.name)
        elif fault := name_fault(name):
            yield Link("raw file", "wrong", f"{name[:60]!a} in provenance.json {fault}")
        elif candidates := found.get(name.rsplit("/", 1)[-1]):
            checked = _best(link, name, candidates)
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


def _add_names(folder: Path, found: dict[str, list[tuple[Path, str]]]) -> None:
    """Adds the files below a folder, by their last names; links to folders are not followed."""
    number = 0
    for where, _, names in os.walk(folder):
        for name in names:
            number += 1
            if number > MOST_FILES:
                return
            inside = (Path(where) / name).relative_to(folder).as_posix()
            found.setdefault(name, []).append((folder, inside))


def _best(link: Dependency, name: str, candidates: list[tuple[Path, str]]) -> Link:
    """Checks the files that may be meant, those first whose folders fit too; the first that is right counts."""
    faults: list[Link] = []
    corpus = str(link.about.get("corpus"))
    for folder, inside in sorted(
        candidates, key=lambda c: (c[1] != name and c[1] != f"{corpus}/{name}", not c[1].endswith(f"/{name}"))
    ):
        try:
            checked = compare("raw file", inside, link.digest, sha256_inside(folder, inside)[1])
        except UnsafeFile as e:
            state = "open" if "links are not followed" in str(e) else "wrong"
            checked = Link("raw file", state, str(e), inside)  # type: ignore[arg-type]
        if checked.state == "good":
            return checked
        faults.append(checked)
    return faults[0]
