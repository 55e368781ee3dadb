"""Segments one part of documents into one part of words; sentences of many documents go to the engine together.

Promises that sentences in = sentences out + rejects, checked before the marker is written. Knows no corpora, ranks or markers.
"""

import logging
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import orjson

from jadeberta.shards import SegmenterError
from jadeberta.utils.files import atomic_file
from preprocess.document_files import write_jsonl_zst
from preprocess.segmenters import Rejected, Segmenter
from preprocess.segmenters.recheck import Recheck
from preprocess.text import split_sentences, whole_text
from preprocess.workdir import SUFFIX, read_documents

Group = list[tuple[str, list[str]]]
"""Documents as (id, sentences) whose sentences go to the engine together."""

log = logging.getLogger(__name__)


@dataclass
class _Tally:
    """Counts and rejects of a part so far."""

    counts: Counter[str] = field(default_factory=Counter)
    rejects: list[dict[str, Any]] = field(default_factory=list)
    recheck: Recheck = field(default_factory=Recheck)


def segment_part(
    part: Path,
    words: Path,
    segmenter: Segmenter,
    batch: int,
    count: Callable[..., None],
    cut_text: Callable[[str], list[str]] = split_sentences,
) -> dict[str, Any]:
    """Writes the words of a part of documents, its rejects, and the sentences whose words depended on the order.

    Args:
        part: part of documents.
        words: file to write; `*.rejects.jsonl` and `*.order.jsonl` beside it are there only where they hold something.
        segmenter: an open segmenter.
        batch: number of sentences that go to the engine together.
        count: called with the documents, sentences and bytes of text that are done; without sentences where documents are not cut.
        cut_text: gives the sentences of a document; `whole_text`: the document.

    Returns:
        {"documents", "sentences", "words", "bytes", "sentences_cut", "quarantined": {reason: n}, "restarts", "order_checked",
        "order_dependent", "seconds"}

    Raises:
        SegmenterError: the engine stopped working, or sentences in are not sentences out plus rejects.
    """
    began, restarts, cut = time.monotonic(), segmenter.restarts, segmenter.cut_sentences
    tally, stem = _Tally(), words.name.removesuffix(SUFFIX)
    # Atomic: a killed attempt leaves no part that could be taken for a whole one.
    write_jsonl_zst(words, _rows(part, segmenter, batch, tally, count, cut_text))
    counts, rejects = tally.counts, tally.rejects
    unit = "documents" if cut_text is whole_text else "sentences"
    # The promise of this stage, checked on every part before its marker exists.
    if counts["read"] != counts["sentences"] + len(rejects):
        kept = f"{counts['sentences']} segmented and {len(rejects)} quarantined"
        raise SegmenterError(f"{part}: {counts['read']} {unit} read but {kept}. This is a bug: report it with the part.")
    cut = segmenter.cut_sentences - cut
    # After the words are written: the check must not change which sentences the engine saw before.
    differing = tally.recheck.differing(segmenter)
    _write_lines(words.with_name(f"{stem}.rejects.jsonl"), rejects)
    _write_lines(words.with_name(f"{stem}.order.jsonl"), [asdict(row) for row in differing])
    seconds, name = time.monotonic() - began, f"{part.parent.name}: {part.name}"
    quarantined = dict(sorted(Counter(row["reason"] for row in rejects).items()))
    log.info("%s: %d %s, %.0f a second", name, counts["read"], unit, counts["read"] / max(seconds, 1e-9))
    if cut:
        log.info("%s: %d sentences given to the segmenter in fragments, as they are too long for it", name, cut)
    if rejects:
        log.warning("%s: %d %s quarantined: %s", name, len(rejects), unit, quarantined)
    if differing:
        seen = f"{len(differing)} of {tally.recheck.sentences} sentences segmented again had other words"
        log.warning("%s: %s; see %s.order.jsonl", name, seen, stem)
    return {
        **{key: counts[key] for key in ("documents", "sentences", "words", "bytes")},
        "sentences_cut": cut,
        "quarantined": quarantined,
        "restarts": segmenter.restarts - restarts,
        "order_checked": tally.recheck.sentences,
        "order_dependent": len(differing),
        "seconds": round(seconds, 3),
    }


def _rows(
    part: Path,
    segmenter: Segmenter,
    batch: int,
    tally: _Tally,
    count: Callable[..., None],
    cut_text: Callable[[str], list[str]],
) -> Iterator[dict[str, Any]]:
    """Yields the rows of a part of words; adds counts and rejects to `tally`."""
    # Groups whose answers are still to come, the oldest first: the engine works ahead.
    asked: deque[tuple[Group, list[str]]] = deque()

    def ask() -> Iterator[list[str]]:
        for group in _groups(part, batch, cut_text):
            asked.append((group, [sentence for _, sentences in group for sentence in sentences]))
            yield asked[-1][1]

    for answers in segmenter.segment_groups(ask()):
        group, read = asked.popleft()
        words = [answer for answer in answers if not isinstance(answer, Rejected)]
        text = "".join(words)
        tally.counts.update(documents=len(group), read=len(read), sentences=len(words), bytes=len(text.encode()))
        # A sentence has one word more than spaces; counting characters is cheaper than splitting.
        tally.counts["words"] += text.count(" ") + len(words)
        start = 0
        for document_id, sentences in group:
            own = answers[start : start + len(sentences)]
            start += len(sentences)
            tally.recheck.add(document_id, sentences, own)
            # Rare, so the sentences of a document are copied only then.
            if len(words) < len(read):
                rejected = ((number, answer) for number, answer in enumerate(own, 1) if isinstance(answer, Rejected))
                tally.rejects += [
                    {"id": document_id, "sentence number": number, "sentence": sentences[number - 1]} | asdict(answer)
                    for number, answer in rejected
                ]
                own = [answer for answer in own if not isinstance(answer, Rejected)]
            yield {"id": document_id, "sentences": own}
        sentences_done = {} if cut_text is whole_text else {"sentences": len(read)}
        count(documents=len(group), **sentences_done, bytes=len("".join(read).encode()))


def _groups(part: Path, most: int, cut_text: Callable[[str], list[str]]) -> Iterator[Group]:
    """Yields groups of documents with at most `most` sentences, unless a single document has more."""
    group: Group = []
    held = 0
    for row in read_documents(part):
        sentences = cut_text(row["text"])
        # A document is never split over two groups: its answers come back together.
        if group and held + len(sentences) > most:
            yield group
            group, held = [], 0
        group.append((row["id"], sentences))
        held += len(sentences)
    if group:
        yield group


def _write_lines(path: Path, rows: list[dict[str, Any]]) -> None:
    """Writes one JSON object a line; removes the file if there are no rows."""
    if not rows:
        path.unlink(missing_ok=True)
        return
    with atomic_file(path) as f:
        for row in rows:
            f.write(orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE))
