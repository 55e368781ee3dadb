"""The statement in a release: in-toto Statement v1 with a provenance predicate of SLSA v1, as standard tools read it.

Its subjects are the files of the release, its resolved dependencies the links of the chain that they come from, each of a kind of `KINDS`.
Sources: in-toto/attestation, spec/v1/statement.md and resource_descriptor.md; slsa.dev/spec/v1.0/provenance.
"""

import re
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

from jadeberta.errors import CONTROL_CHARACTER
from jadeberta.provenance.safe_files import UnsafeFile, name_fault

STATEMENT_NAME = "provenance.json"
ENVELOPE_NAME = "provenance.intoto.jsonl"
STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
PREDICATE_TYPE = "https://slsa.dev/provenance/v1"
BUILD_TYPE = "urn:jadeberta:release:v1"
KINDS = {
    "checkpoint": "the checkpoint's manifest, which has the sha256 of each of its files",
    "recipe": "the recipe in the checkpoint's state.json, as JSON with sorted keys",
    "lock file": "of the programs that an attempt ran with",
    "program": "commit of the program that an attempt ran with",
    "shards": "fingerprint of the training shards",
    "shards record": "provenance.json beside the shards",
    "index": "index.json of the shards, which has the sha256 of each of them",
    "tokenizer": "a file of the tokenizer",
    "words": "what sha256sum prints for the parts of words of a corpus",
    "documents": "what sha256sum prints for the parts of documents of a corpus",
    "raw file": "a file of a corpus",
}
FINGERPRINT, COMMIT = "jadebertaFingerprint", "gitCommit"
"""Names of digests that are no sha256 of a file."""
SHA256, HEX = re.compile("[0-9a-f]{64}"), re.compile("[0-9a-f]{40,64}")


@dataclass(frozen=True)
class Dependency:
    """A link of the chain."""

    kind: str
    name: str
    digest: str
    """sha256 of the file, or for the kinds shards and program the fingerprint and the commit; empty: not recorded."""
    about: dict[str, Any] = field(default_factory=dict)
    """What else is known: corpus, bytes, and so on."""

    def descriptor(self) -> dict[str, Any]:
        """Returns the link as in-toto's resource descriptor."""
        algorithm = {"shards": FINGERPRINT, "program": COMMIT}.get(self.kind, "sha256")
        digest = {"digest": {algorithm: self.digest}} if self.digest else {}
        return {"name": self.name, "uri": quote(self.name), **digest, "annotations": {"kind": self.kind, **self.about}}


@dataclass(frozen=True)
class Statement:
    """A statement that was read and checked for its form."""

    subjects: dict[str, str]
    """sha256 by name of each file of the release."""
    dependencies: tuple[Dependency, ...]
    made: dict[str, Any]
    """What was exported: step, weights, dtype, objective."""

    def of_kind(self, kind: str) -> list[Dependency]:
        """Returns the links of a kind."""
        return [link for link in self.dependencies if link.kind == kind]


def statement_document(
    subjects: dict[str, str], dependencies: list[Dependency], made: dict[str, Any], run: dict[str, Any], program: str
) -> dict[str, Any]:
    """Returns a statement as JSON has it.

    Args:
        subjects: sha256 by name of each file of the release.
        dependencies: links of the chain.
        made: what was asked for: the step, the kind and type of the weights.
        run: facts of the run; "started" and "finished" are times as RFC 3339 has them.
        program: version of this program.
    """
    times = {f"{name}On": run[name] for name in ("started", "finished") if name in run}
    facts = {key: value for key, value in run.items() if key not in ("started", "finished")}
    return {
        "_type": STATEMENT_TYPE,
        "subject": [{"name": name, "digest": {"sha256": sha256}} for name, sha256 in sorted(subjects.items())],
        "predicateType": PREDICATE_TYPE,
        "predicate": {
            "buildDefinition": {
                "buildType": BUILD_TYPE,
                "externalParameters": made,
                "internalParameters": facts,
                "resolvedDependencies": [link.descriptor() for link in dependencies],
            },
            "runDetails": {
                "builder": {"id": "urn:jadeberta:export", "version": {"jadeberta": program}},
                "metadata": times,
            },
        },
    }


def read_statement(document: dict[str, Any]) -> Statement:
    """Checks the form of a statement.

    Raises:
        UnsafeFile: a field is missing, of another type, or names what it must not name.
    """
    if document.get("_type") != STATEMENT_TYPE or document.get("predicateType") != PREDICATE_TYPE:
        raise UnsafeFile("is no in-toto statement v1 of SLSA's provenance v1")
    predicate = _object(document, "predicate", "")
    definition = _object(predicate, "buildDefinition", "predicate.")
    if definition.get("buildType") != BUILD_TYPE:
        raise UnsafeFile(f"has the buildType {str(definition.get('buildType'))[:60]!a}, which is none of this program's releases")
    _object(_object(predicate, "runDetails", "predicate."), "builder", "predicate.runDetails.")
    subjects: dict[str, str] = {}
    for number, subject in enumerate(_list(document, "subject", "")):
        where = f"subject[{number}]"
        name = _text(subject, "name", where)
        if fault := name_fault(name):
            raise UnsafeFile(f"names the file {name[:60]!a}, which {fault}")
        if CONTROL_CHARACTER.search(name):
            raise UnsafeFile(f"names the file {name[:60]!a}, which holds a control character, as no name in a release does")
        if name in subjects:
            raise UnsafeFile(f"names the file {name[:60]!a} twice")
        subjects[name] = _digest(subject, "sha256", SHA256, where)
        if not subjects[name]:
            raise UnsafeFile(f"has no sha256 in {where}")
    if not subjects:
        raise UnsafeFile("names no file")
    seen: set[tuple[str, str]] = set()
    links = []
    for number, entry in enumerate(_list(definition, "resolvedDependencies", "predicate.buildDefinition.")):
        where = f"resolvedDependencies[{number}]"
        name, about = _text(entry, "name", where), _object(entry, "annotations", f"{where}.")
        kind = _text(about, "kind", f"{where}.annotations")
        if kind not in KINDS:
            raise UnsafeFile(f"has a link of the kind {kind[:40]!a}, which this program does not know")
        if (kind, name) in seen:
            raise UnsafeFile(f"has the link {name[:60]!a} twice")
        seen.add((kind, name))
        algorithm, pattern = {"shards": (FINGERPRINT, SHA256), "program": (COMMIT, HEX)}.get(kind, ("sha256", SHA256))
        about = {key: value for key, value in about.items() if key != "kind"}
        for key, value in about.items():
            if not isinstance(value, str | int) or isinstance(value, bool):
                raise UnsafeFile(f"has {key[:40]!a} in {where}, which is neither a text nor a whole number")
            if not _is_utf8(f"{key}{value}"):
                raise UnsafeFile(f"has {key[:40]!a} in {where}, which is not UTF-8")
        links.append(Dependency(kind, name, _digest(entry, algorithm, pattern, where), about))
    return Statement(subjects, tuple(links), _object(definition, "externalParameters", "predicate.buildDefinition."))


def _object(parent: Any, key: str, where: str) -> dict[str, Any]:
    value = parent.get(key) if isinstance(parent, dict) else None
    if not isinstance(value, dict):
        raise UnsafeFile(f"has no object {where}{key}")
    return value


def _list(parent: dict[str, Any], key: str, where: str) -> list[Any]:
    value = parent.get(key)
    if not isinstance(value, list):
        raise UnsafeFile(f"has no list {where}{key}")
    return value


def _text(parent: Any, key: str, where: str) -> str:
    value = parent.get(key) if isinstance(parent, dict) else None
    if not isinstance(value, str) or not value:
        raise UnsafeFile(f"has no text {where}.{key}")
    if not _is_utf8(value):
        raise UnsafeFile(f"has {value[:60]!a} as {where}.{key}, which is not UTF-8")
    return value


def _is_utf8(text: str) -> bool:
    """Whether a text can be written: JSON may name halves of characters."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _digest(parent: dict[str, Any], algorithm: str, pattern: re.Pattern[str], where: str) -> str:
    """A digest in hexadecimal, empty where there is none."""
    digests = parent.get("digest", {})
    value = digests.get(algorithm, "") if isinstance(digests, dict) else None
    if not isinstance(value, str) or (value and not pattern.fullmatch(value)):
        raise UnsafeFile(f"has a {algorithm} in {where} that is no number of hexadecimal digits as it has")
    return value
