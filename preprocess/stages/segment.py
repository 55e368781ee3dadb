"""Stage 2: documents -> sentences -> words. A part of documents becomes a part of words, a reject file if needed, and a marker.

Promises that no sentence is lost: it is in the part of words or, with its reason, in the reject file. The words do not depend on the
number of ranks, and a part with a marker is never segmented again. The engine works on the next sentences while these are written.
"""

import logging
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from jadeberta.shards import ConfigError, SegmenterError
from preprocess.compressed import hashing_whole_files
from preprocess.config import PreprocessConfig, SegmenterConfig
from preprocess.document_files import read_json, write_json
from preprocess.executors.executor import Executor
from preprocess.segmenters import Segmenter, open_segmenter
from preprocess.stages.segment_part import segment_part
from preprocess.text import split_sentences, text_rules, whole_text
from preprocess.workdir import (
    documents_dir,
    duplicates_settings,
    list_parts,
    read_markers,
    require_complete,
    words_dir,
    words_marker,
    words_path,
)

COUNTS = ("documents", "sentences", "words", "bytes", "sentences_cut", "restarts", "order_checked", "order_dependent", "seconds")
"""Counts that are added up over the parts of a corpus."""

log = logging.getLogger(__name__)


def segment(config: PreprocessConfig, out: Path, executor: Executor) -> dict[str, Any]:
    """Segments every extracted part of the corpora under `out`.

    Returns:
        {corpus: {"documents", "sentences_in", "sentences", "words", "bytes", "sentences_cut", "restarts", "order_checked",
        "order_dependent", "seconds", "quarantined": {reason: n}}}. `sentences_in` is `sentences` plus the quarantined ones; `bytes` are
        those of the words with a space between them; `sentences_cut` of the sentences were given to the engine in fragments;
        `order_checked` sentences were segmented again among others, and `order_dependent` of them then had other words. Without a
        segmenter also "unit": what these counts call sentences, documents or sentences.

    Raises:
        SegmenterError: the engine cannot be used, or differs between ranks.
        ConfigError: `out` holds words made with other settings, or there is nothing to segment.
    """
    with ExitStack() as stack:
        # Collective: every rank has an engine, and all have the same one, before any part is begun.
        segmenter = _open_everywhere(config.segmenter, executor, stack)
        pending = executor.run_on_root(lambda: _plan(config, out, segmenter.description))
        # Reading all markers takes time; a run with nothing to do skips it.
        sizes = executor.run_on_root(lambda: _text_bytes(config, out)) if pending else {}
        executor.map(pending, lambda part: _segment_part(part, out, segmenter, config, executor.count), sizes.__getitem__)
    return executor.run_on_root(lambda: {corpus: _conclude(corpus, out, config) for corpus in config.corpora})


def _open_everywhere(config: SegmenterConfig, executor: Executor, stack: ExitStack) -> Segmenter:
    """Opens this rank's engine; raises on every rank if one of them has none or another version."""
    opened: list[Segmenter] = []

    def describe() -> dict[str, Any]:
        opened.append(stack.enter_context(open_segmenter(config)))
        return opened[0].description

    descriptions = executor.run_on_all(describe)
    first, expected = descriptions[0]
    for who, description in descriptions:
        if description != expected:
            difference = _difference(expected, description)
            raise SegmenterError(f"{who} has another segmenter than {first} ({difference}). Install the same on every host.")
    log.info("segmenter: %s", expected)
    return opened[0]


def _plan(config: PreprocessConfig, out: Path, description: dict[str, Any]) -> list[Path]:
    """Returns the parts that are not segmented yet, the largest first so that ranks end at about the same time."""
    pending = []
    for corpus in config.corpora:
        parts = list_parts(out, corpus)
        if not parts:
            markers = read_markers(out, corpus)
            if not markers:
                raise ConfigError(
                    f"{out}: no documents of '{corpus}'. Run 'python -m preprocess extract' with the same --out first."
                )
            require_complete(out, corpus)
            dropped = sum((Counter(marker["counts"]["dropped"]) for marker in markers), Counter())
            said = ", ".join(f"{n:,} {reason}" for reason, n in dropped.items()) or "its files hold none"
            raise ConfigError(
                f"{out}: no document of '{corpus}' is left ({said}). Correct the filter that drops "
                "them, take the corpus out of preprocess.corpora, or add text."
            )
        require_complete(out, corpus)
        pending += [part for part in parts if not _is_done(part, out, description, config.keeps_text)]
    return sorted(pending, key=lambda part: -part.stat().st_size)


def _text_bytes(config: PreprocessConfig, out: Path) -> dict[Path, int]:
    """Returns the bytes of text of every part of documents."""
    markers = ((corpus, marker) for corpus in config.corpora for marker in read_markers(out, corpus))
    parts = ((corpus, part) for corpus, marker in markers for part in marker["parts"])
    return {documents_dir(out, corpus) / part["file"]: part["bytes"] for corpus, part in parts}


def _settings(part: Path, description: dict[str, Any], keeps_text: bool) -> dict[str, Any]:
    """Returns all that the words of a part depend on."""
    normaliser, splitter = text_rules(keeps_text)
    return {
        "segmenter": description,
        "normaliser": normaliser,
        "splitter": splitter,
        "source": {"name": part.name, "bytes": part.stat().st_size} | duplicates_settings(part),
    }


def _is_done(part: Path, out: Path, description: dict[str, Any], keeps_text: bool) -> bool:
    words = words_path(part, out)
    marker = words_marker(words)
    if not marker.is_file():
        return False
    content = read_json(marker)
    settings = _settings(part, description, keeps_text)
    if content["settings"] != settings:
        difference = _difference(content["settings"], settings)
        raise ConfigError(f"{marker}: made with another {difference}; give another --out or delete {marker.parent}.")
    # A part that was truncated after its marker was written is segmented again.
    return words.is_file() and words.stat().st_size == content["file_bytes"]


def _difference(then: dict[str, Any], now: dict[str, Any], prefix: str = "") -> str:
    """Returns the first key on which two settings differ, with both values."""
    for key in [*now, *then]:
        old, new = then.get(key), now.get(key)
        if old != new:
            if isinstance(old, dict) and isinstance(new, dict):
                return _difference(old, new, f"{prefix}{key}.")
            return f"{prefix}{key}: {old!r} then, {new!r} now"
    return ""


def _segment_part(part: Path, out: Path, segmenter: Segmenter, config: PreprocessConfig, count: Callable[..., None]) -> None:
    if _is_done(part, out, segmenter.description, config.keeps_text):
        return  # another process of the pool did it and was killed before it noted that
    words = words_path(part, out)
    cut = whole_text if config.keeps_text else split_sentences
    with hashing_whole_files() as read:
        counts = segment_part(part, words, segmenter, config.segmenter.batch_sentences, count, cut)
    content = {
        "settings": _settings(part, segmenter.description, config.keeps_text),
        "counts": counts,
        "file_bytes": words.stat().st_size,
    }
    # What was read, not what the extraction recorded: of the two the words depend on this one.
    content |= {"documents_sha256": read[part][1]} if part in read else {}
    write_json(words_marker(words), content)


def _conclude(corpus: str, out: Path, config: PreprocessConfig) -> dict[str, Any]:
    """Removes what killed processes of a pool left, and adds up the counts of all parts."""
    # Once for all parts: to look for the leftovers of each one took a listing of the whole folder every time.
    for leftover in words_dir(out, corpus).glob(".*.tmp-*"):
        leftover.unlink(missing_ok=True)
    summary = _summary(corpus, out)
    return summary if config.segments else summary | {"unit": "documents" if config.keeps_text else "sentences"}


def _summary(corpus: str, out: Path) -> dict[str, Any]:
    total: Counter[str] = Counter()
    quarantined: Counter[str] = Counter()
    for part in list_parts(out, corpus):
        counts = read_json(words_marker(words_path(part, out)))["counts"]
        # The only count that is a dictionary; the others add up.
        quarantined.update(counts.pop("quarantined"))
        total.update(counts)
    read = {"sentences_in": total["sentences"] + quarantined.total()}
    return read | {name: total[name] for name in COUNTS} | {"quarantined": dict(sorted(quarantined.items()))}
