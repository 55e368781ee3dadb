"""`jadeberta verify-release DIR`: follows a release by hashes, from its weights to the files of the corpora.

Prints a line for each link: good; wrong, with the file and both hashes; or open, with the folder to name so that it can be checked.
Ends with status 0 where no link is wrong. Needs no network.
"""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson

from jadeberta.errors import CheckpointError, ConfigError, OutputError
from jadeberta.provenance.corpus_links import raw_links, work_links
from jadeberta.provenance.envelope import read_envelope, require_key, sign, verify_envelope
from jadeberta.provenance.links import (
    Link,
    checkpoint_links,
    printable,
    program_links,
    release_links,
    shard_links,
    with_record,
)
from jadeberta.provenance.record import statement_bytes
from jadeberta.provenance.safe_files import IS_LINK, UnsafeFile, parse_object, read_inside, sha256_inside
from jadeberta.provenance.statement import ENVELOPE_NAME, STATEMENT_NAME, read_statement
from jadeberta.utils.command_line import OneSentenceParser
from jadeberta.utils.files import write_atomically
from jadeberta.utils.paths import path_option

CARD_NAME = "README.md"


def follow(
    release: Path,
    shards: Path | None = None,
    corpora: tuple[Path, ...] = (),
    run: Path | None = None,
    verify_key: Path | None = None,
    content: bytes | None = None,
) -> Iterator[Link]:
    """Checks every link of a release's chain.

    Args:
        release: directory that `export` wrote.
        shards: directory of the shards.
        corpora: folders with the files of the corpora.
        run: of the checkpoint, or the checkpoint itself.
        verify_key: public key that must have signed the statement.
        content: bytes of the release's statement, where they have been read already.

    Raises:
        CheckpointError: there is no statement that can be read.
        ConfigError: a folder or key that was named is none.
    """
    content, document = read_document(release, content)
    try:
        statement = read_statement(document)
    except UnsafeFile as e:
        raise CheckpointError(f"{release / STATEMENT_NAME}: {e}; export the checkpoint again, or load the release again.") from e
    yield signature_link(release, content, verify_key)
    yield from release_links(release, statement)
    yield from checkpoint_links(run, release, statement)
    yield from program_links(run, statement)
    yield from shard_links(shards, statement)
    dependencies, about = with_record(shards, statement)
    yield from about
    yield from work_links(shards, dependencies)
    yield from raw_links(corpora, dependencies)


def read_document(release: Path, content: bytes | None = None) -> tuple[bytes, dict[str, Any]]:
    """Returns the bytes of a release's statement and the JSON object in them.

    Raises:
        CheckpointError: there is none.
    """
    try:
        content = read_inside(release, STATEMENT_NAME) if content is None else content
        return content, parse_object(content)
    except UnsafeFile as e:
        remedy = "a release of an older version has none; export it again" if str(e) == "is missing" else "load the release again"
        if str(e) == IS_LINK:  # as in the cache of the Hub's library
            remedy = "load the release by 'hf download OWNER/NAME --local-dir DIR', which writes files"
        raise CheckpointError(f"{release / STATEMENT_NAME}: {e}; {remedy}.") from e


def signature_link(release: Path, statement: bytes, key: Path | None) -> Link:
    """Checks the envelope of a release."""
    try:
        envelope = read_inside(release, ENVELOPE_NAME)
    except UnsafeFile as e:
        if str(e) != "is missing":
            return Link("signature", "wrong", str(e), ENVELOPE_NAME)
        # A signature that was asked for and is not there is a fault: taking it away is easier than to forge it.
        return Link(
            "signature", "open" if key is None else "wrong", "the release is not signed" + ", so no key fits" * (key is not None)
        )
    try:
        # Without a key too: a signature of what the release was before must not be handed on.
        if read_envelope(envelope)[0] != statement:
            return Link("signature", "wrong", f"holds another statement than {STATEMENT_NAME}", ENVELOPE_NAME)
    except UnsafeFile as e:
        return Link("signature", "wrong", str(e), ENVELOPE_NAME)
    if key is None:
        return Link("signature", "open", "cannot be checked here; name the public key with --verify-key", ENVELOPE_NAME)
    try:
        return Link("signature", "good", f"by the key {verify_envelope(envelope, statement, key)[:16]}…", ENVELOPE_NAME)
    except UnsafeFile as e:
        return Link("signature", "wrong", str(e), ENVELOPE_NAME)


def accept_card(release: Path) -> bool:
    """Writes the card as it is now into the statement of a release; all else stays as it was.

    Returns:
        Whether a signature was removed: it was of the statement before.
    """
    before, document = read_document(release)
    try:
        read_statement(document)
        sha256 = sha256_inside(release, CARD_NAME)[1]
        for subject in document["subject"]:
            if subject["name"] == CARD_NAME:
                subject["digest"] = {"sha256": sha256}
        content = statement_bytes(document)
    except (UnsafeFile, orjson.JSONEncodeError) as e:
        raise CheckpointError(f"{release}: the card cannot be taken into provenance.json ({e}).") from e
    if content == before:
        return False
    _write(release / STATEMENT_NAME, content)
    envelope = release / ENVELOPE_NAME
    was_signed = envelope.is_file() or envelope.is_symlink()
    try:
        envelope.unlink(missing_ok=True)
    except OSError as e:
        raise OutputError(f"{envelope}: cannot be removed ({e.strerror}), and is no signature of this card; remove it.") from e
    return was_signed


def main(arguments: list[str]) -> int:
    """Runs the command; returns 1 where a link is wrong."""
    parser = OneSentenceParser(prog="jadeberta verify-release", description=__doc__.split("\n\n")[0])
    parser.add_argument("release", type=path_option, help="directory that 'jadeberta export' wrote")
    parser.add_argument("--shards", type=path_option, help="directory of the shards, best with its work/")
    parser.add_argument(
        "--corpora", type=path_option, action="append", default=[], help="folder with the corpora's files; repeatable"
    )
    parser.add_argument("--run", type=path_option, help="directory of the run, or of the checkpoint")
    parser.add_argument("--json", action="store_true", help="print the links as JSON")
    parser.add_argument("--verify-key", type=path_option, help="public Ed25519 key (PEM) that must have signed the release")
    parser.add_argument(
        "--sign-key", type=path_option, help=f"private Ed25519 key (PEM): where nothing is wrong, write {ENVELOPE_NAME}"
    )
    parser.add_argument(
        "--accept-card", action="store_true", help=f"take {CARD_NAME}, edited by hand, into {STATEMENT_NAME} first"
    )
    options = parser.parse_args(arguments)
    for folder in [options.release, options.shards, options.run, *options.corpora]:
        if folder is not None and not folder.is_dir():
            raise ConfigError(f"{folder}: no such directory; correct the path.")
    if options.verify_key is not None:
        require_key(options.verify_key, "--verify-key")
    if options.sign_key is not None:
        require_key(options.sign_key, "--sign-key")
        if options.verify_key is not None:
            raise ConfigError("--sign-key makes the signature anew, so --verify-key has nothing to check; give one of them.")
    if options.accept_card and options.verify_key is not None:
        raise ConfigError(
            "--accept-card writes a statement that nobody has signed yet, so --verify-key cannot fit; give one of them."
        )
    if options.accept_card and accept_card(options.release) and options.sign_key is None:
        print(f"{ENVELOPE_NAME} was of the card before and is removed; sign again with --sign-key", file=sys.stderr)
    found, wrong = [], 0
    content, _ = read_document(options.release)
    for link in follow(options.release, options.shards, tuple(options.corpora), options.run, options.verify_key, content):
        if options.sign_key is not None and link.name == "signature":
            continue  # it is made below
        found.append(link)
        wrong += link.state == "wrong"
        if not options.json:
            print(link.line(), flush=True)
    if options.sign_key is not None and not wrong:
        # The bytes that were checked, and not what lies there by now.
        _write(options.release / ENVELOPE_NAME, sign(content, options.sign_key))
    states = {state: sum(link.state == state for link in found) for state in ("good", "wrong", "open")}
    release = printable(str(options.release))
    if options.json:
        links = [{key: printable(value) for key, value in vars(link).items() if value} for link in found]
        print(orjson.dumps({"release": release, **states, "links": links}, option=orjson.OPT_INDENT_2).decode())
    else:
        signed = "" if options.sign_key is None else ", signed" if not wrong else ", not signed"
        print(f"{release}: {states['good']} good, {states['wrong']} wrong, {states['open']} cannot be checked here{signed}")
    return 1 if wrong else 0


def _write(path: Path, content: bytes) -> None:
    if path.is_symlink():
        raise OutputError(f"{path}: is a symbolic link, which is not written through; remove it.")
    try:
        write_atomically(path, content)
    except OSError as e:
        raise OutputError(f"{path}: cannot be written ({e.strerror}). Make room, or copy the release where you can write.") from e
