"""Writes the statement of a release: `export` calls it when all other files of the directory are there."""

import hashlib
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import orjson

from jadeberta import __version__
from jadeberta.checkpoint.manifest import MANIFEST_NAME
from jadeberta.errors import CheckpointError, ShardError
from jadeberta.provenance.statement import ENVELOPE_NAME, STATEMENT_NAME, Dependency, statement_document
from jadeberta.shards import find_index
from jadeberta.shards.provenance import SHARDS_PROVENANCE_FORMAT, SHARDS_PROVENANCE_NAME, SHARDS_PROVENANCE_VERSION
from jadeberta.utils.files import file_sha256
from jadeberta.utils.json_lines import finite

MOST_RAW_FILES = 20_000
"""Files of corpora that a statement names one by one, about 350 bytes each; of more the hash of the shards' record holds for them."""
LARGEST_RECORD = 1 << 30
"""Bytes of the record beside the shards, which names every file of the corpora."""


def write_statement(
    release: Path, checkpoint: Path, state: dict[str, Any], ledger: list[dict[str, Any]], made: dict[str, Any]
) -> None:
    """Writes `provenance.json` into a release.

    Args:
        release: directory with all other files of the release.
        checkpoint: that was exported; verified.
        state: content of its state.json.
        ledger: events of the run, empty where they are not known.
        made: what was asked for: weights (trained or ema) and dtype.

    Raises:
        CheckpointError: the record beside the shards is of a version that this program does not know.
    """
    names = sorted(p.relative_to(release).as_posix() for p in release.rglob("*") if p.is_file())
    subjects = {name: file_sha256(release / name) for name in names if name not in (STATEMENT_NAME, ENVELOPE_NAME)}
    made = {"checkpoint": checkpoint.name, "step": state["step"], **made}
    made |= {"objective": state["settings"].get("training.objective", "mlm")}
    links = [
        Dependency("checkpoint", f"{checkpoint.name}/{MANIFEST_NAME}", file_sha256(checkpoint / MANIFEST_NAME)),
        Dependency("recipe", "recipe", recipe_sha256(state)),
        *programs_of(ledger),
        *_data(state),
    ]
    document = statement_document(subjects, links, made, _run(state, ledger), __version__)
    (release / STATEMENT_NAME).write_bytes(statement_bytes(document))


def statement_bytes(document: dict[str, Any]) -> bytes:
    """Returns the bytes of a statement's file."""
    return orjson.dumps(document, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)


def recipe_sha256(state: dict[str, Any]) -> str:
    """Returns the sha256 of the recipe in a checkpoint's state.json, as JSON with sorted keys and without spaces."""
    return hashlib.sha256(orjson.dumps(state["recipe"], option=orjson.OPT_SORT_KEYS)).hexdigest()


def programs_of(ledger: list[dict[str, Any]]) -> list[Dependency]:
    """Returns lock files and commits of all attempts; ledgers of older versions name none."""
    found = [row["program"] for row in ledger if row.get("event") == "start" and isinstance(row.get("program"), dict)]
    locks = {p["lock_sha256"]: p.get("torch", "") for p in found if isinstance(p.get("lock_sha256"), str)}
    commits = dict.fromkeys(p["commit"] for p in found if isinstance(p.get("commit"), str))
    return [
        *(Dependency("lock file", f"requirements/{sha[:12]}.lock", sha, {"torch": torch}) for sha, torch in locks.items()),
        *(Dependency("program", f"jadeberta@{commit[:12]}", commit) for commit in commits),
    ]


def _data(state: dict[str, Any]) -> list[Dependency]:
    fingerprints, recorded = state["fingerprints"], state["data"].get("provenance_sha256")
    links = [
        Dependency("shards", "shards", fingerprints["shards"]),
        Dependency("tokenizer", state["data"].get("tokenizer_file", "spm.model"), fingerprints["tokenizer"]),
    ]
    if recorded is None:
        return links
    links.append(Dependency("shards record", SHARDS_PROVENANCE_NAME, recorded))
    shards = Path(state["recipe"]["data"]["shards"])
    try:
        record = _shards_record(shards, recorded)
        made = [] if record is None else links_of_record(record)
    except (ValueError, KeyError, TypeError, AttributeError) as e:
        raise CheckpointError(
            f"{shards}: its {SHARDS_PROVENANCE_NAME} is of another version ({type(e).__name__}: {e}). Export with the version that made "
            "the shards, or with the shards elsewhere."
        ) from e
    if sum(link.kind == "raw file" for link in made) > MOST_RAW_FILES:
        made = [link for link in made if link.kind != "raw file"]
    return [*links, *made]


def _shards_record(shards: Path, sha256: str) -> dict[str, Any] | None:
    """The record beside the shards; None where the shards are elsewhere now, or others: `--shards` shows the rest of the chain then."""
    try:
        content = find_index(shards).with_name(SHARDS_PROVENANCE_NAME).read_bytes()
    except (OSError, ShardError):
        return None
    return orjson.loads(content) if hashlib.sha256(content).hexdigest() == sha256 else None


def links_of_record(record: dict[str, Any]) -> list[Dependency]:
    """Returns the links that the record beside shards has: index, words, documents and files of each corpus.

    Raises:
        ValueError, KeyError, TypeError, AttributeError: it is none.
    """
    if (record["format"], record["version"]) != (SHARDS_PROVENANCE_FORMAT, SHARDS_PROVENANCE_VERSION):
        raise ValueError(f"format {record['format']} version {record['version']}")
    links = [Dependency("index", "index.json", record["index_sha256"], {"fingerprint": record["shards"]})]
    for corpus, made in record["corpora"].items():
        words, documents = made["words"], made["documents"]
        read = {"documents_sha256": words["documents_sha256"]} if words["documents_sha256"] else {}
        links.append(
            Dependency(
                "words", f"words/{corpus}.sha256", words["sha256"] or "", {"corpus": corpus, "parts": words["parts"], **read}
            )
        )
        counts = {key: documents[key] for key in ("parts", "documents", "bytes")}
        about = {"corpus": corpus, **counts, "extractor": made["extractor"], "format": made["format"]}
        links.append(Dependency("documents", f"documents/{corpus}.sha256", documents["sha256"] or "", about))
        for raw in made["raw"]:
            about = {"corpus": corpus, "file": raw["file"], "bytes": raw["bytes"]}
            links.append(Dependency("raw file", f"{corpus}/{raw['file']}", raw["sha256"] or "", about))
    return links


def _run(state: dict[str, Any], ledger: list[dict[str, Any]]) -> dict[str, Any]:
    facts: dict[str, Any] = {"tokens": state["tokens"], "seed": state["seed"], "versions": state["versions"]}
    # An attempt that did nothing after its start was refused.
    begun = {row.get("attempt", row.get("life")) for row in ledger if row.get("event") not in ("start", "stop", None)}
    facts["attempts"] = sum(row.get("event") == "start" and row.get("attempt", row.get("life")) in begun for row in ledger)
    starts = [t for row in ledger if row.get("event") == "start" and (t := finite(row, "time"))]
    saves = [
        t for row in ledger if row.get("event") == "save" and row.get("step") == state["step"] and (t := finite(row, "time"))
    ]
    if starts:
        facts["started"] = _rfc3339(min(starts))
    if saves:
        facts["finished"] = _rfc3339(max(saves))
    return facts


def _rfc3339(seconds: float) -> str:
    return datetime.fromtimestamp(int(seconds), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
