"""Sections of the card that are read from other commands' files: what preprocessing counted, and JGLUE's scores.

Each section names its file. A file of other shards or of another model is refused, or left out with the reason.
"""

import hashlib
import json
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jadeberta.errors import CheckpointError, ShardError
from jadeberta.release.markdown import in_table, in_text
from jadeberta.shards import INDEX_NAME, ShardIndex

REPORT = "report.json"
RESULTS = "results.json"
NOT_KNOWN = "not known"
_VERSION = re.compile(r"-v(\d+(?:\.\d+)*)\.json")


def preprocessing_section(state: dict[str, Any]) -> str:
    """Returns what the stages of preprocessing counted, from `report.json` beside the shards; says so where it cannot be read.

    Args:
        state: content of the checkpoint's state.json, which names the shards.
    """
    head = "### As counted by preprocessing\n\n"
    shards = Path(str(state["recipe"].get("data", {}).get("shards", "")))
    try:
        index = ShardIndex.load(shards / INDEX_NAME)
        content = (shards / REPORT).read_bytes()
        report = json.loads(content)
        if index.fingerprint != state["fingerprints"]["shards"]:
            return f"{head}Not known: the shards where the recipe has them are not those of the training.\n"
        if report["tokenizer"]["result"].get("sha256", index.tokenizer_sha256) != index.tokenizer_sha256:
            return f"{head}Not known: `{REPORT}` beside the shards is of another tokenizer.\n"
        return head + _counts(report, index, hashlib.sha256(content).hexdigest())
    except (OSError, ShardError):
        return f"{head}Not known: there was no `{REPORT}` beside the shards when the model was exported.\n"
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return f"{head}Not known: `{REPORT}` beside the shards is damaged.\n"


def _counts(report: dict[str, Any], index: ShardIndex, sha256: str) -> str:
    stages = [report.get(stage, {}).get("result", {}) for stage in ("extract", "segment")]
    lines, dropped = [], []
    for name, corpus in index.corpora.items():
        extracted, segmented = ({**found.get(name, {})} for found in stages)
        held_out = sum(entry.documents for entry in corpus.valid)
        tokens = sum(entry.tokens for entry in corpus.train)
        numbers = (extracted.get("documents"), segmented.get("sentences"), segmented.get("bytes"), tokens, held_out)
        lines.append(f"| {in_table(name)} | {' | '.join(_number(n) for n in numbers)} |")
        reasons = {str(reason): count for reason, count in {**extracted.get("dropped", {})}.items()}
        reasons |= {f"sentences, {reason}": count for reason, count in {**segmented.get("quarantined", {})}.items()}
        told = ", ".join(f"{in_text(reason)} {_number(count)}" for reason, count in sorted(reasons.items()))
        dropped.append(f"- {in_text(name)}: {told or 'none'}")
        files = {**extracted.get("files", {})}
        dropped.append(f"  - files: {', '.join(in_text(file) for file in files) or NOT_KNOWN}")
    coverage = {**report["tokenizer"]["result"].get("coverage", {})}
    covered = ", ".join(
        f"{words} {_share(coverage.get(key))}"
        for key, words in (("one_piece", "words of one token:"), ("unknown", "unknown tokens:"))
    )
    table = "\n".join(lines)
    excluded = "\n".join(dropped)
    return f"""| corpus | documents | sentences | bytes of words | tokens for training | documents held out |
|---|---|---|---|---|---|
{table}

Excluded by reason, and the files that were read:

{excluded}

Of a corpus those documents are held out whose ids have the smallest hashes. Dates of dumps are those in the files' names.
Tokenizer: {covered}. From `{REPORT}` beside the shards (sha256 {sha256[:16]}…).
"""


def _number(value: object) -> str:
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else NOT_KNOWN


def _share(value: object) -> str:
    return f"{value:.2%}" if isinstance(value, int | float) and not isinstance(value, bool) else NOT_KNOWN


def read_jglue(directories: Sequence[Path]) -> list[dict[str, Any]]:
    """Reads the results of `jadeberta finetune`, one directory a task.

    Returns:
        Each `results.json` with its "file" and "file_sha256", in the order of the directories.

    Raises:
        CheckpointError: there is none, it is damaged, nothing was chosen in it, or a task is there twice.
    """
    found: list[dict[str, Any]] = []
    for directory in directories:
        path = directory / RESULTS if directory.is_dir() else directory
        anew = "Name the --out directory of 'jadeberta finetune'"
        try:
            content = path.read_bytes()
            results = json.loads(content)
            task, chosen = str(results["task"]), results["chosen"]
            if chosen is None:
                raise CheckpointError(
                    f"{path}: no setting is chosen in it. Run 'jadeberta finetune' until every point is finished."
                )
            numbers = [
                *chosen["mean"]["valid"].values(),
                *chosen["deviation"].get("valid", {}).values(),
                chosen["lr"],
                chosen["epochs"],
            ]
            is_whole = all(isinstance(n, int | float) and not isinstance(n, bool) and math.isfinite(n) for n in numbers)
            if not is_whole or not isinstance(results["model"]["sha256"], str) or not isinstance(chosen["seeds"], list):
                raise TypeError("figures are no numbers")
            results |= {"file": f"{path.parent.name}/{path.name}", "file_sha256": hashlib.sha256(content).hexdigest()}
        except OSError as e:
            raise CheckpointError(f"{path}: cannot be read ({e.strerror}). {anew}.") from e
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as e:
            raise CheckpointError(f"{path}: not the {RESULTS} of 'jadeberta finetune' ({type(e).__name__}: {e}). {anew}.") from e
        if any(other["task"] == task for other in found):
            raise CheckpointError(f"{path}: a second result of {task}. Name one directory for each task.")
        found.append(results)
    return found


def refuse_foreign_scores(results: list[dict[str, Any]], encoders: set[str]) -> None:
    """Raises CheckpointError where scores are of another encoder than one of these hashes of its fp32 weights."""
    for one in results:
        if (sha256 := one["model"]["sha256"]) not in encoders:
            raise CheckpointError(
                f"{one['file']}: scores of other weights (sha256 {sha256[:12]}…) than the exported ones. Fine-tune this checkpoint, or "
                "leave --jglue out."
            )


def jglue_section(results: list[dict[str, Any]] | None) -> str:
    """Returns the scores on JGLUE's development sets, with how each was found; says so where none were given."""
    if not results:
        return "## JGLUE\n\nNot measured.\n"
    lines = []
    for one in results:
        chosen = one["chosen"]
        version = _VERSION.search(str({**one.get("files", {})}.get("valid", "")))
        how = f"{chosen['lr']:g} | {chosen['epochs']} | {len(chosen['seeds'])} | {version[1] if version else NOT_KNOWN}"
        for metric, score in chosen["mean"]["valid"].items():
            deviation = chosen["deviation"].get("valid", {}).get(metric)
            spread = "one seed" if deviation is None else f"{deviation:.4f}"
            file = f"`{in_text(one['file'])}` {one['file_sha256'][:12]}"
            lines.append(f"| {in_table(one['task'])} | {in_table(metric)} | {score:.4f} | {spread} | {how} | {file} |")
    rules = "\n".join(
        f"- {in_text(one['task'])}: {in_text(one.get('rule') or 'how the setting was chosen is not known')}" for one in results
    )
    table = "\n".join(lines)
    return f"""## JGLUE

Development sets, mean over seeds.

| task | metric | score | deviation | learning rate | epochs | seeds | JGLUE | file, sha256 |
|---|---|---|---|---|---|---|---|---|
{table}

{rules}
"""
