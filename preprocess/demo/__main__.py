"""`python -m preprocess.demo DIR`: a Japanese corpus of our own in the three formats that `extract` reads.

Promises that the same seed gives the same bytes, and `expected.json` with what a right extraction finds.
Every sentence comes from our own grammar over JumanDIC's words: there is enough to learn to see a small model learn.
"""

import argparse
import time
from pathlib import Path

from preprocess.demo.documents import Lexicon
from preprocess.demo.vocabulary import load_words
from preprocess.demo.web_corpora import write_cc100, write_oscar
from preprocess.demo.wikipedia_dump import write_wikipedia
from preprocess.document_files import write_json

DOCUMENTS = 7600
SHARES = {"wikipedia": 0.3, "cc100": 0.4, "oscar": 0.3}


def write_corpus(directory: Path, documents: int = DOCUMENTS, seed: int = 0, oscar_2301: bool = False) -> dict[str, int]:
    """Writes all files; `documents` counts what a right extraction keeps. Returns what `expected.json` says."""
    lexicon = Lexicon(load_words())
    articles, paragraphs = (round(documents * SHARES[name]) for name in ("wikipedia", "cc100"))
    kept = documents - articles - paragraphs
    expected = {
        **write_wikipedia(directory, lexicon, seed, articles),
        **write_cc100(directory, lexicon, seed, paragraphs),
        **write_oscar(directory, lexicon, seed, kept),
    }
    if oscar_2301:
        expected |= write_oscar(directory, lexicon, seed, kept // 2, "2301")
    write_json(directory / "expected.json", expected)
    return expected


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m preprocess.demo",
        description="Write a Japanese corpus of our own as a Wikipedia dump, a CC-100 file and an OSCAR file, "
        "with expected.json to check an extraction by. The same seed gives the same bytes.",
    )
    parser.add_argument("directory", type=Path, help="folder for the files; made if it does not exist")
    parser.add_argument("--documents", type=int, default=DOCUMENTS, help="documents that extraction keeps (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="another seed, another corpus (default: %(default)s)")
    parser.add_argument("--oscar-2301", action="store_true", help="also write an OSCAR 23.01 file, with half as many documents")
    arguments = parser.parse_args()
    if arguments.documents < 10:
        parser.error(f"--documents {arguments.documents}: too few for three corpora; give 10 or more")
    start = time.perf_counter()
    expected = write_corpus(arguments.directory, arguments.documents, arguments.seed, arguments.oscar_2301)
    print(f"{arguments.directory}: {arguments.documents} documents in {time.perf_counter() - start:.1f} s")
    for name, count in expected.items():
        print(f"  {name}: {count}")


if __name__ == "__main__":
    main()
