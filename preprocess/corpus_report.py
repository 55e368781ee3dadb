"""What the stages did, per corpus: `report.json` and a table on the terminal."""

import time
from pathlib import Path
from typing import Any

from jadeberta.shards import CorpusEntry, ShardIndex
from preprocess.document_files import read_json, write_json

ORDER = (
    *("documents", "text", "  dropped", "sentences in", "sentences out", "  quarantined", "  order-dependent", "words"),
    *("segmenter", "train", "valid", "repeats"),
)
"""The rows of the table by how their names begin."""


def write_report(out: Path, reports: dict[str, Any]) -> dict[str, Any]:
    """Merges what some stages report into `out/report.json`, which keeps the other stages' last report; returns the whole.

    Args:
        out: the stages' directory.
        reports: {stage: {"result": what the stage returned, "seconds", "ranks"}}.
    """
    path = out / "report.json"
    report: dict[str, Any] = read_json(path) if path.exists() else {}
    for stage, entry in reports.items():
        result = entry["result"]
        if isinstance(result, ShardIndex):
            result = {name: _shard_counts(corpus, result.sequence_length) for name, corpus in result.corpora.items()}
        elif stage == "tokenizer":
            result = {k: v for k, v in result.items() if k != "settings"}
        report[stage] = {"seconds": round(entry["seconds"], 3), "ranks": entry["ranks"], "time": time.time(), "result": result}
    write_json(path, report)
    return report


def _shard_counts(corpus: CorpusEntry, sequence_length: int) -> dict[str, Any]:
    counts: dict[str, Any] = {"repeats": corpus.repeats}
    for split in ("train", "valid"):
        entries = getattr(corpus, split)
        counts[split] = {key: sum(getattr(e, key) for e in entries) for key in ("sequences", "documents", "tokens", "bytes")}
        counts[split]["shards"] = len(entries)
        places = counts[split]["sequences"] * sequence_length
        counts[split]["padding"] = 1 - counts[split]["tokens"] / places if places else 0.0
    return counts


def print_report(report: dict[str, Any]) -> None:
    """A table with a column for each corpus: what was read, dropped by reason, cut into words, quarantined by reason, and packed."""
    from rich.console import Console
    from rich.table import Table

    extract, segment, pack = (report.get(stage, {}).get("result", {}) for stage in ("extract", "segment", "pack"))
    corpora = list(extract | segment | pack)
    rows: dict[str, dict[str, str]] = {}
    for corpus in corpora:
        for name, value in _figures(extract.get(corpus, {}), segment.get(corpus, {}), pack.get(corpus, {})).items():
            if value is not None:
                rows.setdefault(name, {})[corpus] = f"{value:.2%}" if name.endswith("padding") else f"{value:,}"
    table = Table("", *corpora)
    for name in sorted(rows, key=lambda n: next(i for i, prefix in enumerate(ORDER) if n.startswith(prefix))):
        table.add_row(name, *(rows[name].get(c, "0") for c in corpora))
    Console(color_system=None).print(table)
    if coverage := report.get("tokenizer", {}).get("result", {}).get("coverage"):
        share, tokens, unknown = (coverage[key] for key in ("one_piece", "tokens_per_word", "unknown"))
        print(f"{share:.2%} of the running words are one piece; {tokens:.4f} tokens a word, {unknown:.4%} of them [UNK]")
    for stage, entry in report.items():
        print(f"{stage}: {entry['seconds']:.1f} s on {entry['ranks']} ranks")


def _figures(extracted: dict[str, Any], segmented: dict[str, Any], packed: dict[str, Any]) -> dict[str, float | None]:
    """One corpus's column by the names of its rows; None where a stage has not said."""
    figures: dict[str, float | None] = {"documents": extracted.get("documents"), "text, bytes": extracted.get("bytes")}
    figures |= {f"  dropped: {reason}": n for reason, n in extracted.get("dropped", {}).items()}
    figures["sentences in"] = segmented.get("sentences_in")
    figures["sentences out"] = segmented.get("sentences")
    figures |= {f"  quarantined: {reason}": n for reason, n in segmented.get("quarantined", {}).items()}
    figures |= {"words": segmented.get("words"), "words, bytes": segmented.get("bytes")}
    figures |= {"segmenter restarts": segmented.get("restarts"), "segmenter seconds": _rounded(segmented.get("seconds"))}
    if segmented.get("order_dependent"):
        figures["  order-dependent"] = segmented["order_dependent"]
    for split in ("train", "valid"):
        figures |= {f"{split} {unit}": packed.get(split, {}).get(unit) for unit in ("sequences", "tokens", "padding")}
    return figures | {"repeats in an epoch": packed.get("repeats")}


def _rounded(seconds: float | None) -> int | None:
    return None if seconds is None else round(seconds)
