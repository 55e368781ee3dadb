"""Wikitext to text, and text to sentences: megabytes of UTF-8 a second of one core.

Cleaning is measured on a dense article of our own (an infobox, notes, tables, links by the line), which costs more a byte than most
pages, beside mwparserfromhell's `strip_code` on the same page; and on the sample's dump where it is there. Splitting is measured on the
demo's corpus, and on the sample's three.
"""

import time
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path

import mwparserfromhell

from bench.preprocess.measure import Row, median_of
from preprocess import readers
from preprocess.config import CorpusConfig
from preprocess.demo.corpus import write_corpus
from preprocess.readers import wikipedia
from preprocess.readers.discover import discover
from preprocess.readers.markup import clean, is_disambiguation
from preprocess.text import normalise, split_sentences

ROOT = Path(__file__).resolve().parents[2]
ARTICLE = ROOT / "tests" / "preprocess" / "readers" / "article.wiki"
SAMPLE = ROOT.parent / "shared" / "data" / "corpora"
MEGABYTES = 8
"""Of each text; a quarter where it has to be quick."""


def measure(work: Path, rounds: int, quick: bool) -> list[Row]:
    """The rows of cleaning and splitting; `work` is an empty folder."""
    megabytes = MEGABYTES / 4 if quick else MEGABYTES
    write_corpus(work / "demo", documents=400 if quick else 1600)
    split_sentences("")  # its table is made at the first call
    rows = _cleaning(megabytes, rounds)
    for source, folder in {"demo": work / "demo", "sample": SAMPLE}.items():
        if not folder.is_dir():
            continue
        for name, config in discover(folder).items():
            if config.format != "wikipedia":
                texts = _some(
                    (d["text"] for p in readers.splits(name, config) for d in readers.documents(p, Counter())), megabytes
                )
                found = _speeds(
                    {"ours": _each(texts, split_sentences), "normalise alone": _each(texts, normalise)}, texts, rounds
                )
                rows.append(_row(f"sentence splitting + normalisation, {source} {name}", found, 25.0, texts))
    return rows


def _cleaning(megabytes: float, rounds: int) -> list[Row]:
    article = ARTICLE.read_text(encoding="utf-8")
    pages = {"a dense article": [article] * max(1, round(megabytes * 1e6 / 10 / len(article.encode())))}
    if SAMPLE.is_dir():
        pages["sample dump"] = _some(_wikitexts(discover(SAMPLE)["wikipedia"]), megabytes)

    def ours(page: str) -> str:
        return "" if is_disambiguation(page) else clean(page)

    def theirs(page: str) -> str:
        return str(mwparserfromhell.parse(page).strip_code())

    rows = []
    for name, texts in pages.items():
        found = _speeds({"ours": _each(texts, ours), "mwparserfromhell strip_code": _each(texts, theirs)}, texts, rounds)
        rows.append(_row(f"Wikipedia wikitext cleaning, {name}", found, 1.0, texts))
    return rows


def _wikitexts(config: CorpusConfig) -> list[str]:
    """The wikitext of a dump's pages outside other namespaces."""
    pages = (
        wikipedia._fields(piece, number, page)
        for piece in readers.splits("wikipedia", config)
        for number, page in wikipedia._pages(piece)
    )
    return [wikitext for _, namespace, _, redirect, wikitext in pages if namespace == "0" and not redirect]


def _some(texts: Iterable[str], megabytes: float) -> list[str]:
    """The first texts up to a size."""
    found: list[str] = []
    size = 0
    for text in texts:
        found.append(text)
        size += len(text.encode())
        if size >= megabytes * 1e6:
            break
    return found


def _each(texts: list[str], work: Callable[[str], object]) -> Callable[[], object]:
    def all_of_them() -> None:
        for text in texts:
            work(text)

    return all_of_them


def _speeds(ways: dict[str, Callable[[], object]], texts: list[str], rounds: int) -> dict[str, list[float]]:
    """MB a second of a core, round by round, the ways taking turns."""
    size = sum(len(text.encode()) for text in texts) / 1e6
    found: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, run in ways.items():
            began = time.process_time()
            run()
            found[name].append(size / (time.process_time() - began))
    return found


def _row(measure: str, found: dict[str, list[float]], target: float, texts: list[str]) -> Row:
    details = {
        "megabytes": round(sum(len(text.encode()) for text in texts) / 1e6, 3),
        "texts": len(texts),
        "medians": {name: round(median_of(speeds), 2) for name, speeds in found.items()},
        "rounds": {name: [round(speed, 2) for speed in speeds] for name, speeds in found.items()},
    }
    return Row(measure, median_of(found["ours"]), "MB/s a core", target, details)
