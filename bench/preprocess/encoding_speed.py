"""Text to marked tokens with a Hugging Face tokenizer, beside `tokenizers` alone: `python -m bench.preprocess.encoding_speed`.

Both take the same documents in the same batches, without threads, one after the other in each round.
"""

import os
import time
from pathlib import Path
from tempfile import TemporaryDirectory

os.environ["TOKENIZERS_PARALLELISM"] = "false"

from tokenizers import Tokenizer

from bench.preprocess.measure import median_of
from preprocess.tokenization.encoders import find_tokenizer, open_encoder
from preprocess.tokenization.marked_tokens import DOCUMENTS_AT_ONCE, encode_marked
from tests.preprocess import small_tokenizers as small

ROUNDS, DOCUMENTS = 7, 2000
SOURCES = {"tohoku": "tokenizer", "xlm_r": "tokenizer", "modernbert": "tokens"}
"""Source of words by layout."""


def main() -> None:
    """Prints the medians and their quotient for each layout."""
    rows = [{"sentences": ["".join(small.TEXTS[n % 200 : n % 200 + 20])]} for n in range(DOCUMENTS)]
    texts = [row["sentences"][0] for row in rows]
    size = sum(len(text.encode()) for text in texts) / 1e6
    for name, source in SOURCES.items():
        with TemporaryDirectory() as folder:
            path = small.LAYOUTS[name](Path(folder))
            encoder, bare = open_encoder(find_tokenizer(path)), Tokenizer.from_file(str(path / "tokenizer.json"))
            ours, theirs = [], []
            for _ in range(ROUNDS):
                began = time.perf_counter()
                for start in range(0, DOCUMENTS, DOCUMENTS_AT_ONCE):
                    found = bare.encode_batch_fast(texts[start : start + DOCUMENTS_AT_ONCE], add_special_tokens=False)
                    for one in found:
                        _ = one.ids
                theirs.append(size / (time.perf_counter() - began))
                began = time.perf_counter()
                for _ in encode_marked(rows, encoder, source, False):
                    pass
                ours.append(size / (time.perf_counter() - began))
        a, b = median_of(ours), median_of(theirs)
        print(f"{name} ({source}): {a:.1f} MB/s, tokenizers alone {b:.1f} MB/s, {a / b:.2f}")


if __name__ == "__main__":
    main()
