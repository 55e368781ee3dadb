"""Follows the chain of a release, link by link: each is good, wrong, or cannot be checked with the folders that were named.

Every hash is computed from the bytes; files are opened only inside of the folders that the user named.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import orjson

from jadeberta.checkpoint.manifest import MANIFEST_NAME, STATE_NAME, STEP_NAME, directory_name
from jadeberta.checkpoint.manifest import verify as verify_checkpoint
from jadeberta.errors import CheckpointError, ShardError, escape_controls
from jadeberta.provenance.record import LARGEST_RECORD, links_of_record, programs_of, recipe_sha256
from jadeberta.provenance.safe_files import UnsafeFile, open_inside, parse_object, read_inside, sha256_inside
from jadeberta.provenance.statement import ENVELOPE_NAME, STATEMENT_NAME, Dependency, Statement
from jadeberta.shards import INDEX_NAME, ShardIndex, checksums_path, find_index
from jadeberta.shards.provenance import SHARDS_PROVENANCE_NAME
from jadeberta.utils.json_lines import JsonRow, read_jsonl

WEIGHTS_NAME = "model.safetensors"
EVALUATION_FOLDER = "evaluation/"
"""Where `publish --evaluation` puts its files: figures, which nothing loads."""
State = Literal["good", "wrong", "open"]


def printable(text: str) -> str:
    """Returns a text of others as one line that every terminal and file takes: names on a disk need not be UTF-8."""
    return escape_controls(text.encode("utf-8", "backslashreplace").decode())


@dataclass(frozen=True)
class Link:
    """One link of the chain, checked."""

    name: str
    state: State
    """open: it cannot be checked here."""
    detail: str
    file: str = ""
    expected: str = ""
    found: str = ""

    def line(self) -> str:
        """Returns the link as a line."""
        where = f"{self.file}: " if self.file else ""
        hashes = f" (expected {self.expected}, found {self.found})" if self.found else ""
        return printable(f"{self.state:<5}  {self.name:<13}  {where}{self.detail}{hashes}")


def compare(name: str, file: str, expected: str, found: str, detail: str = "sha256") -> Link:
    """Returns the link between a hash that is expected and the one that was found.

    Args:
        name: of the link.
        file: that was hashed.
        expected: as the statement has it.
        found: as the bytes have it.
        detail: what kind of hash it is.
    """
    if expected == found:
        return Link(name, "good", f"{detail} {found[:12]}…", file)
    return Link(name, "wrong", f"{detail} differs", file, expected, found)


def release_links(release: Path, statement: Statement) -> Iterator[Link]:
    """Checks the files of the release: each one named is as it was, and no other is there."""
    for name, expected in sorted(statement.subjects.items(), key=lambda item: (item[0] != WEIGHTS_NAME, item[0])):
        link = "weights" if name.endswith(".safetensors") else "release"
        try:
            yield compare(link, name, expected, sha256_inside(release, name)[1])
        except UnsafeFile as e:
            yield Link(link, "wrong", str(e), name)
    known = {*statement.subjects, STATEMENT_NAME, ENVELOPE_NAME}
    for path in sorted(release.rglob("*")):
        name = path.relative_to(release).as_posix()
        # Of programs, not of the model: .git, .gitattributes, .cache of the Hub's downloads.
        if name.startswith(".") or name in known or (path.is_dir() and not path.is_symlink()):
            continue
        if name.startswith(EVALUATION_FOLDER) and name.endswith(".json") and not path.is_symlink():
            yield Link("release", "open", "was published beside the release, whose provenance.json does not name it", name)
            continue
        yield Link("release", "wrong", "lies there, and provenance.json does not name it", name)


def checkpoint_links(run: Path | None, release: Path, statement: Statement) -> Iterator[Link]:
    """Checks the checkpoint's files, that the weights are the checkpoint's, and that its state names the recipe and the data."""
    made, (manifest, *_) = statement.made, [*statement.of_kind("checkpoint"), None]
    if manifest is None:
        # What was asked for and is not there is a fault: a link that is left out would pass else.
        asked: State = "open" if run is None else "wrong"
        yield Link("checkpoint", asked, "not recorded in this release")
        return
    name = manifest.name.removesuffix(f"/{MANIFEST_NAME}")
    if not STEP_NAME.fullmatch(name) or not manifest.digest:
        yield Link("checkpoint", "wrong", f"{manifest.name[:60]!a} in provenance.json is no checkpoint with its sha256")
        return
    if run is None:
        yield Link("checkpoint", "open", f"{name}: cannot be checked here; name its run with --run DIR")
        return
    directory = run if run.name == name else run / "checkpoints" / name
    try:
        link = compare("checkpoint", f"{name}/{MANIFEST_NAME}", manifest.digest, sha256_inside(directory, MANIFEST_NAME)[1])
    except UnsafeFile as e:
        is_gone = not directory.is_dir()
        what = "is not in this run any more; name the run, or a copy of the checkpoint" if is_gone else str(e)
        yield Link("checkpoint", "open" if is_gone else "wrong", what, name if is_gone else f"{name}/{MANIFEST_NAME}")
        return
    yield link
    if link.state == "wrong":
        return
    if faults := verify_checkpoint(directory):
        yield from (Link("checkpoint", "wrong", fault) for fault in faults)
        return
    yield Link("checkpoint", "good", "every file is as the manifest says", name)
    yield _weights(directory, release, made)
    try:
        state = parse_object(read_inside(directory, STATE_NAME))
        found = {
            "recipe": recipe_sha256(state),
            "shards": state["fingerprints"]["shards"],
            "tokenizer": state["fingerprints"].get("tokenizer") or "",
            "shards record": state["data"].get("provenance_sha256") or "",
        }
    except (UnsafeFile, KeyError, TypeError, AttributeError, orjson.JSONEncodeError) as e:
        yield Link("recipe", "wrong", f"is no state of a run ({type(e).__name__}: {e})", f"{name}/{STATE_NAME}")
        return
    for kind, sha256 in found.items():
        what = "fingerprint of the shards" if kind == "shards" else f"sha256 of the {kind}"
        dependencies = statement.of_kind(kind)
        if sha256 and not dependencies:
            yield Link(kind, "wrong", f"has the {what}, which {STATEMENT_NAME} leaves out", f"{name}/{STATE_NAME}")
        for dependency in dependencies:
            yield compare(kind, f"{name}/{STATE_NAME}", dependency.digest, str(sha256), what)


def _weights(checkpoint: Path, release: Path, made: dict[str, Any]) -> Link:
    """Compares the released weights with the checkpoint's, number by number: a statement may name any checkpoint."""
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load

    from jadeberta.checkpoint.consolidate import consolidate_weights

    dtype, kind = made.get("dtype"), made.get("weights")
    if made.get("objective") != "mlm":
        return Link("weights", "open", "of a pair of models; they are not compared with the checkpoint", WEIGHTS_NAME)
    if dtype not in ("float32", "bfloat16", "float16") or kind not in ("trained", "ema"):
        return Link("weights", "wrong", "provenance.json does not say which weights these are, in which type", WEIGHTS_NAME)
    try:
        with open_inside(release, WEIGHTS_NAME) as f:
            released = load(f.read())
        expected = consolidate_weights(checkpoint, kind)
    except (UnsafeFile, CheckpointError, SafetensorError, ValueError, KeyError, TypeError, RuntimeError) as e:
        # The library knows fewer types of numbers than its format: a KeyError.
        return Link("weights", "wrong", f"cannot be compared with the checkpoint ({e})", WEIGHTS_NAME)
    wanted = getattr(torch, dtype)
    differing = [
        name
        for name in sorted(released.keys() | expected.keys())
        if name not in released
        or name not in expected
        or released[name].dtype != wanted
        or not torch.equal(released[name], expected[name].to(wanted))
    ]
    if differing:
        return Link(
            "weights", "wrong", f"not those of {checkpoint.name} ({differing[0]} differs, {len(differing)} in all)", WEIGHTS_NAME
        )
    return Link("weights", "good", f"the {kind} weights of {checkpoint.name} as {dtype}, number by number", WEIGHTS_NAME)


def program_links(run: Path | None, statement: Statement) -> Iterator[Link]:
    """Says which programs made the run, as its ledger does; their files are not here, apart from lock files of this version."""
    here = {}
    for path in sorted((Path(__file__).parents[2] / "requirements").glob("*.lock")):
        here[hashlib.sha256(path.read_bytes()).hexdigest()] = path.name
    ledger = _ledger(run, statement)
    needed, known = (
        {(link.kind, link.digest) for link in programs_of(rows)} for rows in (_until_save(ledger, statement), ledger)
    )
    named = [*statement.of_kind("lock file"), *statement.of_kind("program")]
    for kind, digest in sorted(needed - {(link.kind, link.digest) for link in named}):
        yield Link(kind, "wrong", f"{digest or 'not recorded'}: is in the ledger of the run, and {STATEMENT_NAME} leaves it out")
    for link in named:
        what = f"commit {link.digest}" if link.kind == "program" else f"sha256 {link.digest}"
        if ledger and (link.kind, link.digest) not in known:
            yield Link(link.kind, "wrong", f"{what}: is not in the ledger of the run")
        elif not link.digest:
            yield Link(link.kind, "open", "not recorded by an attempt of the run")
        elif link.kind == "program":
            yield Link("program", "open", f"{what}: cannot be checked here; look for it in the repository")
        elif link.digest not in here:
            yield Link("lock file", "open", f"{what}: of another version; compare with its requirements/*.lock")
        elif known:
            yield Link("lock file", "good", f"{here[link.digest]} of this version, sha256 {link.digest[:12]}…")
        else:
            yield Link("lock file", "open", f"{here[link.digest]} of this version; whether the run had it shows --run DIR")
    if not statement.of_kind("lock file"):
        yield Link("lock file", "open", "not recorded by the run")


def _ledger(run: Path | None, statement: Statement) -> list[JsonRow]:
    """Events of the run; none where it is not here, or where the checkpoint was named: the run is outside of that."""
    if run is None or STEP_NAME.fullmatch(run.name):
        return []
    path = run / "ledger.jsonl"
    try:
        return [] if path.is_symlink() or not path.is_file() else read_jsonl(path)
    except OSError:
        return []


def _until_save(ledger: list[JsonRow], statement: Statement) -> list[JsonRow]:
    """The events before the first save of the released step: later attempts may have had no part in it."""
    names = {link.name.split("/")[0] for link in statement.of_kind("checkpoint")}
    saves = [
        number
        for number, row in enumerate(ledger)
        if row.get("event") == "save" and isinstance(step := row.get("step"), int) and directory_name(step) in names
    ]
    return ledger[: saves[0]] if saves else []


def folder_of_index(shards: Path) -> Path:
    """Returns the folder with the shards: the one that was named, or its shards/ where only that has an index."""
    folder = find_index(shards).parent
    return shards if folder.is_symlink() else folder


def shard_links(shards: Path | None, statement: Statement) -> Iterator[Link]:
    """Checks the shards against their index, the index against the fingerprint, and the record of what they were made from."""
    fingerprints = statement.of_kind("shards")
    if not fingerprints:
        yield Link("shards", "open" if shards is None else "wrong", "not recorded in this release")
        return
    if shards is None:
        yield Link(
            "shards", "open", f"fingerprint {fingerprints[0].digest[:12]}…: cannot be checked here; name them with --shards DIR"
        )
        return
    shards = folder_of_index(shards)
    try:
        content = read_inside(shards, INDEX_NAME)
        index = ShardIndex.load(shards / INDEX_NAME)
    except (UnsafeFile, ShardError) as e:
        yield Link("shards", "wrong", str(e), INDEX_NAME)
        return
    yield compare("shards", INDEX_NAME, fingerprints[0].digest, index.fingerprint, "fingerprint")
    for dependency in statement.of_kind("index"):
        yield compare("index", INDEX_NAME, dependency.digest, hashlib.sha256(content).hexdigest())
    number = wrong = 0
    for entry in [entry for corpus in index.corpora.values() for entry in [*corpus.train, *corpus.valid]]:
        files = {entry.file: entry.sha256}
        files |= {checksums_path(Path(entry.file)).name: entry.sums_sha256} if entry.sums_sha256 else {}
        for link in _files("shards", shards, files):
            number, wrong = number + 1, wrong + (link.state == "wrong")
            if link.state == "wrong":
                yield link
    if not wrong:
        yield Link("shards", "good", f"{number:,} files are as {INDEX_NAME} says")
    for dependency in statement.of_kind("tokenizer"):
        yield from _files("tokenizer", shards, {f"tokenizer/{dependency.name}": dependency.digest})


def _files(link: str, folder: Path, files: dict[str, str]) -> Iterator[Link]:
    for name, expected in files.items():
        try:
            yield compare(link, name, expected, sha256_inside(folder, name)[1])
        except UnsafeFile as e:
            yield Link(link, "wrong", str(e), name)


def with_record(shards: Path | None, statement: Statement) -> tuple[list[Dependency], list[Link]]:
    """Returns what was before the shards, by the statement or else by the record beside the shards, and the record's own link."""
    recorded = statement.of_kind("shards record")
    dependencies = [one for one in statement.dependencies if one.kind in ("words", "documents", "raw file")]
    if not recorded:
        about = Link("documents", "open", "not recorded: the shards were made by an older version")
        return dependencies, [] if dependencies else [about]
    if shards is None:
        about = Link("documents", "open", "cannot be checked here; name the shards with --shards DIR")
        return dependencies, [] if dependencies else [about]
    shards = folder_of_index(shards)
    try:
        content = read_inside(shards, SHARDS_PROVENANCE_NAME, LARGEST_RECORD)
        checked = compare("shards record", SHARDS_PROVENANCE_NAME, recorded[0].digest, hashlib.sha256(content).hexdigest())
        if checked.state == "wrong":
            return dependencies, [checked]
        found = [one for one in links_of_record(parse_object(content)) if one.kind != "index"]
    except UnsafeFile as e:
        return dependencies, [Link("shards record", "wrong", str(e), SHARDS_PROVENANCE_NAME)]
    except (ValueError, KeyError, TypeError, AttributeError) as e:
        about = Link("shards record", "wrong", f"is no such record ({type(e).__name__}: {e})", SHARDS_PROVENANCE_NAME)
        return dependencies, [about]
    # A statement need not name the files of the corpora, where they are many: the hash of the record holds for them.
    kinds = {one.kind for one in dependencies}
    if dependencies != [one for one in found if one.kind in kinds]:
        what = f"the one beside the shards has other links than {STATEMENT_NAME} of the release"
        return dependencies, [checked, Link("shards record", "wrong", what, SHARDS_PROVENANCE_NAME)]
    return found, [checked]
