"""Writes the demo corpus: a Wikipedia dump, a CC-100 file, an OSCAR file, and `expected.json` with what a right extraction finds."""

from pathlib import Path

from preprocess.demo.web_corpora import write_cc100, write_oscar
from preprocess.demo.wikipedia_dump import write_wikipedia
from preprocess.document_files import write_json

DOCUMENTS = 4000
SHARES = {"wikipedia": 0.3, "cc100": 0.4}


def write_corpus(directory: Path, documents: int = DOCUMENTS, seed: int = 0, oscar_2301: bool = False) -> dict[str, int]:
    """Writes all files, the same bytes for the same arguments, and returns the content of `expected.json`.

    Args:
        directory: folder for the files; made if it does not exist.
        documents: how many a right extraction keeps.
        seed: another seed gives another corpus.
        oscar_2301: whether to write a file of OSCAR 23.01 too, with half as many documents as that of 22.01.
    """
    articles, paragraphs = (round(documents * SHARES[name]) for name in ("wikipedia", "cc100"))
    kept = documents - articles - paragraphs
    expected = {
        **write_wikipedia(directory, seed, articles),
        **write_cc100(directory, seed, paragraphs),
        **write_oscar(directory, seed, kept),
    }
    if oscar_2301:
        expected |= write_oscar(directory, seed, kept // 2, "2301")
    # Last: the file says that the corpus is whole.
    write_json(directory / "expected.json", expected)
    return expected
