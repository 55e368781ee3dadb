"""Wikitext to text, and text to sentences: megabytes of UTF-8 a second of one core.

Cleaning is measured on a dense article of our own (an infobox, notes, tables, links by the line), which costs more a byte than most
pages, beside mwparserfromhell's `strip_code` on the same page; and on the sample's dump where it is there. Splitting is measured on the
demo's corpus, and on the sample's three.
"""

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import mwparserfromhell

from bench.preprocess.measure import Row, some_of, speed_row, speeds
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
                texts = some_of(
                    (d["text"] for p in readers.splits(name, config) for d in readers.documents(p, Counter())), megabytes
                )
                found = speeds({"ours": _each(texts, split_sentences), "normalise alone": _each(texts, normalise)}, texts, rounds)
                rows.append(speed_row(f"sentence splitting + normalisation, {source} {name}", found, 25.0, texts))
    return rows


def _cleaning(megabytes: float, rounds: int) -> list[Row]:
    article = ARTICLE.read_text(encoding="utf-8")
    pages = {"a dense article": [article] * max(1, round(megabytes * 1e6 / 10 / len(article.encode())))}
    if SAMPLE.is_dir():
        pages["sample dump"] = some_of(_wikitexts(discover(SAMPLE)["wikipedia"]), megabytes)

    def ours(page: str) -> str:
        return "" if is_disambiguation(page) else clean(page)

    def theirs(page: str) -> str:
        return str(mwparserfromhell.parse(page).strip_code())

    rows = []
    for name, texts in pages.items():
        found = speeds({"ours": _each(texts, ours), "mwparserfromhell strip_code": _each(texts, theirs)}, texts, rounds)
        rows.append(speed_row(f"Wikipedia wikitext cleaning, {name}", found, 1.0, texts))
    return rows


def _wikitexts(config: CorpusConfig) -> list[str]:
    """The wikitext of a dump's pages outside other namespaces."""
    pages = (
        wikipedia._fields(piece, number, page)
        for piece in readers.splits("wikipedia", config)
        for number, page in wikipedia._pages(piece)
    )
    return [wikitext for _, namespace, _, redirect, wikitext in pages if namespace == "0" and not redirect]


def _each(texts: list[str], work: Callable[[str], object]) -> Callable[[], object]:
    def all_of_them() -> None:
        for text in texts:
            work(text)

    return all_of_them
