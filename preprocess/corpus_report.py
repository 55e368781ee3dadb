"""Report of the finished stages by corpus: `report.json` and a table on the terminal."""

import time
from pathlib import Path
from typing import Any

from jadeberta.shards import CorpusEntry, ShardIndex
from jadeberta.utils.durations import format_duration
from jadeberta.utils.text_table import format_table
from preprocess.document_files import read_json, write_json
from preprocess.filters.decontaminate import REASON
from preprocess.workdir import REPORT_NAME

ORDER = (
    *("documents", "text", "  dropped", "documents in", "documents out", "sentences in", "sentences out"),
    *("documents, bytes", "sentences, bytes", "  cut", "  quarantined", "  order-dependent"),
    *("words", "segmenter", "train", "valid", "repeats"),
)
"""Order of the table's rows, by how their names begin; the longest beginning counts."""

TERMINAL_COLUMNS = 80
EXCLUDED_SHOWN = 5
"""Number of excluded records of a corpus that the terminal shows."""
LANGUAGES_SHOWN = 6
"""Number of languages of a corpus whose dropped documents the terminal counts one by one; report.json has all."""


def write_report(out: Path, reports: dict[str, Any]) -> dict[str, Any]:
    """Writes the results of some stages into `out/report.json`, which keeps the last results of the other stages.

    Args:
        out: output directory of the stages.
        reports: {stage: {"result": what the stage returned, "seconds", "ranks"}}.

    Returns:
        The content of the file: as `reports`, with the "time" (seconds since 1970) of each entry.
    """
    path = out / REPORT_NAME
    # Stages can run on different days; each keeps its entry until it runs again.
    report: dict[str, Any] = read_json(path) if path.exists() else {}
    for stage, entry in reports.items():
        result = entry["result"]
        if isinstance(result, ShardIndex):
            result = _pack_counts(result)
        elif stage == "tokenizer":
            result = {k: v for k, v in result.items() if k != "settings"}
        report[stage] = {"seconds": round(entry["seconds"], 3), "ranks": entry["ranks"], "time": time.time(), "result": result}
    write_json(path, report)
    return report


def _pack_counts(index: ShardIndex) -> dict[str, Any]:
    """Counts of each corpus: of the shards of the first row length, and of the further ones under "lengths"."""
    first, *further = [index.of_length(length) for length in index.sequence_lengths]
    counts = {name: _shard_counts(corpus, first.sequence_length) for name, corpus in first.corpora.items()}
    for of_length in further:
        for name, corpus in of_length.corpora.items():
            splits = {key: value for key, value in _shard_counts(corpus, of_length.sequence_length).items() if key != "repeats"}
            counts[name].setdefault("lengths", {})[str(of_length.sequence_length)] = splits
    return counts


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
    """Prints the report: a table with a column for each corpus, the tokenizer's coverage, and the time of each stage."""

    extract, segment, pack = (report.get(stage, {}).get("result", {}) for stage in ("extract", "segment", "pack"))
    corpora = list(extract | segment | pack)
    rows: dict[str, dict[str, str]] = {}
    for corpus in corpora:
        for name, value in _figures(extract.get(corpus, {}), segment.get(corpus, {}), pack.get(corpus, {})).items():
            if value is not None:
                rows.setdefault(name, {})[corpus] = f"{value:.2%}" if name.endswith("padding") else f"{value:,}"
    names = sorted(rows, key=lambda n: ORDER.index(max((prefix for prefix in ORDER if n.startswith(prefix)), key=len)))
    for group in _tables(corpora, rows):
        print(format_table(["", *group], ([name, *(rows[name].get(c, "0") for c in group)] for name in names)))
    for corpus, counts in extract.items():
        if excluded := counts.get("excluded"):
            print(f"{corpus}: {excluded['records']:,} records could not be read and are excluded; report.json names the first:")
            for row in excluded["first"][:EXCLUDED_SHOWN]:
                print(f"  {row['file']}, {row['place']}: {row['reason']}")
        if contaminated := counts.get("contaminated"):
            number = sum(n for reason, n in counts["dropped"].items() if reason.startswith(REASON))
            print(
                f"{corpus}: {number:,} documents hold a text of an evaluation set and are dropped; report.json names the first:"
            )
            for row in contaminated[:EXCLUDED_SHOWN]:
                print(f"  {row['id']}: {row['set']}: {row['text']}")
        if (incomplete := counts.get("incomplete")) and incomplete["sentences"]:
            causes = [f"{name} {number:,}" for name, number in incomplete["templates"].items()]
            shown = ", ".join(causes[:EXCLUDED_SHOWN]) + (", ..." if len(causes) > EXCLUDED_SHOWN else "")
            print(
                f"{corpus}: {incomplete['sentences']:,} sentences are left out as a template's words are missing in them: {shown}"
            )
    if coverage := report.get("tokenizer", {}).get("result", {}).get("coverage"):
        share, tokens, unknown = (coverage[key] for key in ("one_piece", "tokens_per_word", "unknown"))
        print(f"{share:.2%} of the running words are one piece; {tokens:.4f} tokens a word, {unknown:.4%} of them [UNK]")
    for stage, entry in report.items():
        print(f"{stage}: {format_duration(entry['seconds'])} on {entry['ranks']} ranks")


def _tables(corpora: list[str], rows: dict[str, dict[str, str]]) -> list[list[str]]:
    """Groups corpora so that the table of each group fits a terminal of 80 columns; one corpus makes a table in any case."""
    groups: list[list[str]] = []
    used = 0
    for corpus in corpora:
        width = 2 + max(len(corpus), *(len(cells.get(corpus, "")) for cells in rows.values()))
        if not groups or used + width > TERMINAL_COLUMNS:
            groups.append([])
            used = max(map(len, rows))
        groups[-1].append(corpus)
        used += width
    return groups


def _figures(extracted: dict[str, Any], segmented: dict[str, Any], packed: dict[str, Any]) -> dict[str, float | None]:
    """Returns the column of one corpus by the names of its rows; None: not known, as the stage has not run."""
    figures: dict[str, float | None] = {"documents": extracted.get("documents"), "text, bytes": extracted.get("bytes")}
    figures |= {f"  dropped: {reason}": n for reason, n in _shown_languages(extracted.get("dropped", {})).items()}
    unit = segmented.get("unit")  # there where no segmenter makes words
    figures[f"{unit or 'sentences'} in"] = segmented.get("sentences_in")
    figures[f"{unit or 'sentences'} out"] = segmented.get("sentences")
    figures |= {f"  quarantined: {reason}": n for reason, n in segmented.get("quarantined", {}).items()}
    words = {"words": segmented.get("words"), "words, bytes": segmented.get("bytes")}
    figures |= {f"{unit}, bytes": segmented["bytes"]} if unit else words
    figures |= (
        {} if unit else {"segmenter restarts": segmented.get("restarts"), "segmenter seconds": _rounded(segmented.get("seconds"))}
    )
    if segmented.get("sentences_cut"):
        figures["  cut for the segmenter"] = segmented["sentences_cut"]
    if segmented.get("order_dependent"):
        figures["  order-dependent"] = segmented["order_dependent"]
    for split in ("train", "valid"):
        figures |= {f"{split} {unit}": packed.get(split, {}).get(unit) for unit in ("sequences", "tokens", "padding")}
        for length, counts in packed.get("lengths", {}).items():
            figures |= {f"{split} of {int(length):,}: {unit}": counts[split][unit] for unit in ("sequences", "padding")}
    return figures | {"repeats in an epoch": packed.get("repeats")}


def _shown_languages(dropped: dict[str, int]) -> dict[str, int]:
    """Returns the counts with all but the most frequent languages in one row: a crawl has a hundred of them."""
    languages = sorted(
        (reason for reason in dropped if reason.startswith("language: ")), key=lambda reason: (-dropped[reason], reason)
    )
    others = {reason: dropped[reason] for reason in languages[LANGUAGES_SHOWN:]}
    shown = {reason: number for reason, number in dropped.items() if reason not in others}
    return shown | ({"language: others": sum(others.values())} if others else {})


def _rounded(seconds: float | None) -> int | None:
    return None if seconds is None else round(seconds)
