"""Follows the chain of a release, link by link: each is good, wrong, or cannot be checked with the folders that were named.

Every hash is computed from the bytes; files are opened only inside of the folders that the user named.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import orjson

from jadeberta.checkpoint.manifest import MANIFEST_NAME, STATE_NAME, STEP_NAME
from jadeberta.checkpoint.manifest import verify as verify_checkpoint
from jadeberta.errors import CheckpointError, ShardError
from jadeberta.provenance.record import links_of_record, recipe_sha256
from jadeberta.provenance.safe_files import UnsafeFile, open_inside, parse_object, read_inside, sha256_inside
from jadeberta.provenance.statement import ENVELOPE_NAME, STATEMENT_NAME, Dependency, Statement
from jadeberta.shards import INDEX_NAME, ShardIndex, checksums_path
from jadeberta.shards.provenance import SHARDS_PROVENANCE_NAME

WEIGHTS_NAME = "model.safetensors"
EVALUATION_FOLDER = "evaluation/"
"""Where `publish --evaluation` puts its files: figures, which nothing loads."""
State = Literal["good", "wrong", "open"]


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
        return f"{self.state:<5}  {self.name:<13}  {where}{self.detail}{hashes}"


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
        yield Link("checkpoint", "open", "not recorded in this release")
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
            "shards record": state["data"].get("provenance_sha256", ""),
        }
    except (UnsafeFile, KeyError, TypeError, AttributeError, orjson.JSONEncodeError) as e:
        yield Link("recipe", "wrong", f"is no state of a run ({type(e).__name__}: {e})", f"{name}/{STATE_NAME}")
        return
    for kind, sha256 in found.items():
        for dependency in statement.of_kind(kind):
            what = "fingerprint of the shards" if kind == "shards" else f"sha256 of the {kind}"
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
    except (UnsafeFile, CheckpointError, SafetensorError, ValueError) as e:
        return Link("weights", "wrong", f"cannot be compared with the checkpoint ({e})", WEIGHTS_NAME)
    differing = [
        name
        for name in sorted(released.keys() | expected.keys())
        if name not in released
        or name not in expected
        or not torch.equal(released[name], expected[name].to(getattr(torch, dtype)))
    ]
    if differing:
        return Link(
            "weights", "wrong", f"not those of {checkpoint.name} ({differing[0]} differs, {len(differing)} in all)", WEIGHTS_NAME
        )
    return Link("weights", "good", f"the {kind} weights of {checkpoint.name} as {dtype}, number by number", WEIGHTS_NAME)


def program_links(statement: Statement) -> Iterator[Link]:
    """Says which programs made the run; their files are not here, apart from lock files of this version."""
    here = {}
    for path in sorted((Path(__file__).parents[2] / "requirements").glob("*.lock")):
        here[hashlib.sha256(path.read_bytes()).hexdigest()] = path.name
    for link in statement.of_kind("lock file"):
        if link.digest in here:
            yield Link("lock file", "good", f"{here[link.digest]} of this version, sha256 {link.digest[:12]}…")
        else:
            yield Link("lock file", "open", f"sha256 {link.digest}: of another version; compare with its requirements/*.lock")
    for link in statement.of_kind("program"):
        yield Link("program", "open", f"commit {link.digest}: cannot be checked here; look for it in the repository")
    if not statement.of_kind("lock file"):
        yield Link("lock file", "open", "not recorded by the run")


def shard_links(shards: Path | None, statement: Statement) -> Iterator[Link]:
    """Checks the shards against their index, the index against the fingerprint, and the record of what they were made from."""
    fingerprints = statement.of_kind("shards")
    if not fingerprints:
        yield Link("shards", "open", "not recorded in this release")
        return
    if shards is None:
        yield Link(
            "shards", "open", f"fingerprint {fingerprints[0].digest[:12]}…: cannot be checked here; name them with --shards DIR"
        )
        return
    try:
        content = read_inside(shards, INDEX_NAME)
        index = ShardIndex.load(shards / INDEX_NAME)
    except (UnsafeFile, ShardError) as e:
        yield Link("shards", "wrong", str(e), INDEX_NAME)
        return
    yield compare("shards", INDEX_NAME, fingerprints[0].digest, index.fingerprint, "fingerprint")
    for dependency in statement.of_kind("index"):
        yield compare("index", INDEX_NAME, dependency.digest, hashlib.sha256(content).hexdigest())
    number = 0
    for entry in [entry for corpus in index.corpora.values() for entry in [*corpus.train, *corpus.valid]]:
        files = {entry.file: entry.sha256}
        files |= {checksums_path(Path(entry.file)).name: entry.sums_sha256} if entry.sums_sha256 else {}
        for link in _files("shards", shards, files):
            if link.state == "wrong":
                yield link
            number += link.state == "good"
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
    """Returns the links before the shards, from the statement or else from the record beside the shards, and the record's own link."""
    recorded = statement.of_kind("shards record")
    links = [link for link in statement.dependencies if link.kind in ("words", "documents", "raw file")]
    if not recorded:
        return links, [] if links else [Link("documents", "open", "not recorded: the shards were made by an older version")]
    if shards is None:
        return links, [] if links else [Link("documents", "open", "cannot be checked here; name the shards with --shards DIR")]
    try:
        content = read_inside(shards, SHARDS_PROVENANCE_NAME)
        checked = compare("shards record", SHARDS_PROVENANCE_NAME, recorded[0].digest, hashlib.sha256(content).hexdigest())
        if checked.state == "wrong":
            return links, [checked]
        found = [link for link in links_of_record(parse_object(content)) if link.kind != "index"]
    except UnsafeFile as e:
        return links, [Link("shards record", "wrong", str(e), SHARDS_PROVENANCE_NAME)]
    except (ValueError, KeyError, TypeError, AttributeError) as e:
        return links, [Link("shards record", "wrong", f"is no such record ({type(e).__name__}: {e})", SHARDS_PROVENANCE_NAME)]
    if links and links != found:
        return links, [checked, Link("shards record", "wrong", "has other links than provenance.json", SHARDS_PROVENANCE_NAME)]
    return found, [checked]
