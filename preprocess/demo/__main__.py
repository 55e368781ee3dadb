"""`python -m preprocess.demo DIR` writes the demo corpus."""

import argparse
import time

from jadeberta.utils.paths import path_option
from preprocess.demo.corpus import DOCUMENTS, write_corpus


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m preprocess.demo",
        description="Write a Japanese corpus of our own as a Wikipedia dump, a CC-100 file and an OSCAR file, "
        "with expected.json to check an extraction by. The same seed gives the same bytes.",
    )
    parser.add_argument("directory", type=path_option, help="folder for the files; made if it does not exist")
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
