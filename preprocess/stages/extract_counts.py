"""Counts of stage 1: whether too much is excluded, and what the report says of each corpus. Reads the markers alone."""

from pathlib import Path
from typing import Any

from jadeberta.shards import InputError
from preprocess.config import PreprocessConfig
from preprocess.filters.decontaminate import merge_named
from preprocess.readers.archives.members import LEFT_OUT
from preprocess.readers.bad_records import MAX_NAMED
from preprocess.readers.wiki.incomplete_sentences import Losses
from preprocess.workdir import read_markers

AUTO_LIMIT_SHARE, AUTO_LIMIT_RECORDS = 0.01, 10
"""What preprocess.bad_input_limit: auto lets a corpus exclude: this share of its lines or pages, and always so many."""
REPORT_TEMPLATES = 50
"""Most templates that a corpus in the report names as causes of incomplete sentences."""


def check_excluded(config: PreprocessConfig, out: Path) -> None:
    """Checks that no corpus excluded more bad records than allowed.

    Raises:
        InputError: one did.
    """
    for corpus in config.corpora:
        markers = read_markers(out, corpus)
        excluded = sum(marker.get("excluded", {}).get("records", 0) for marker in markers)
        counts = [marker["counts"] for marker in markers]
        records = sum(count["documents"] + _documents_in(count["dropped"]) for count in counts)
        limit = config.bad_input_limit
        allowed = max(AUTO_LIMIT_RECORDS, AUTO_LIMIT_SHARE * records) if limit == "auto" else limit * records
        if excluded > allowed:
            first = next(marker["excluded"]["first"][0] for marker in markers if "excluded" in marker)
            raise InputError(
                f"{config.corpora[corpus].path}: {excluded:,} of {records:,} records of '{corpus}' cannot be read, the first of them "
                f"{first['file']}, {first['place']} ({first['reason']}), and preprocess.bad_input_limit is {limit}; mend the corpus, "
                "or raise the limit and run the same command again."
            )


def _documents_in(dropped: dict[str, int]) -> int:
    """Returns how many documents were dropped: members of archives that are not read are none."""
    return sum(number for reason, number in dropped.items() if not reason.startswith(LEFT_OUT))


def summary(config: PreprocessConfig, out: Path) -> dict[str, Any]:
    """Returns the counts of every corpus, as `extract` does."""
    found: dict[str, Any] = {}
    for name in config.corpora:
        corpus = found[name] = {"documents": 0, "bytes": 0, "dropped": {}, "files": {}}
        losses = Losses()
        for marker in read_markers(out, name):
            counts = marker["counts"]
            if excluded := marker.get("excluded"):
                listed = corpus.setdefault("excluded", {"records": 0, "first": []})
                listed["records"] += excluded["records"]
                listed["first"] = (listed["first"] + excluded["first"])[:MAX_NAMED]
            if "incomplete" in marker:
                losses.add(Losses.of_counts(marker["incomplete"]))
            if contaminated := marker.get("contaminated"):
                corpus["contaminated"] = merge_named(corpus.get("contaminated", []), contaminated)
            corpus["documents"] += counts["documents"]
            corpus["bytes"] += counts["bytes"]
            for reason, number in counts["dropped"].items():
                corpus["dropped"][reason] = corpus["dropped"].get(reason, 0) + number
            file = corpus["files"].setdefault(marker["settings"]["file"], {"documents": 0, "in_file": 0})
            file["documents"] += counts["documents"]
            file["in_file"] += counts["documents"] + _documents_in(counts["dropped"])
        if losses.dropped:
            corpus["incomplete"] = losses.counts(REPORT_TEMPLATES)
    return found
