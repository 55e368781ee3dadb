"""What the stages did, per corpus: `report.json` and a table on the terminal."""

import time
from pathlib import Path
from typing import Any

from jadeberta.shards import CorpusEntry, ShardIndex
from preprocess.files import read_json, write_json


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
    """A table with a column for each corpus: what was read, dropped by reason, quarantined by reason, and packed."""
    from rich.console import Console
    from rich.table import Table

    extract, segment, pack = (report.get(stage, {}).get("result", {}) for stage in ("extract", "segment", "pack"))
    corpora = list(extract | segment | pack)
    rows: dict[str, dict[str, str]] = {}
    for corpus in corpora:
        documents, words, shards = extract.get(corpus, {}), segment.get(corpus, {}), pack.get(corpus, {})
        figures = {"documents": documents.get("documents")}
        figures |= {f"  dropped: {reason}": n for reason, n in documents.get("dropped", {}).items()}
        figures |= {name: words.get(name) for name in ("sentences", "words")}
        figures |= {f"  quarantined: {reason}": n for reason, n in words.get("quarantined", {}).items()}
        for split in ("train", "valid"):
            figures |= {f"{split} {unit}": shards.get(split, {}).get(unit) for unit in ("sequences", "tokens", "padding")}
        figures["repeats in an epoch"] = shards.get("repeats")
        for name, value in figures.items():
            if value is not None:
                rows.setdefault(name, {})[corpus] = f"{value:.2%}" if isinstance(value, float) else f"{value:,}"
    order = ["documents", "  dropped", "sentences", "words", "  quarantined", "train", "valid", "repeats"]
    table = Table("", *corpora)
    for name in sorted(rows, key=lambda n: next(i for i, prefix in enumerate(order) if n.startswith(prefix))):
        table.add_row(name, *(rows[name].get(c, "0") for c in corpora))
    Console(color_system=None).print(table)
    if coverage := report.get("tokenizer", {}).get("result", {}).get("coverage"):
        share, tokens, unknown = (coverage[key] for key in ("one_piece", "tokens_per_word", "unknown"))
        print(f"{share:.2%} of the running words are one piece; {tokens:.4f} tokens a word, {unknown:.4%} of them [UNK]")
    for stage, entry in report.items():
        print(f"{stage}: {entry['seconds']:.1f} s on {entry['ranks']} ranks")
