"""`python -m preprocess` with small measures, so that a corpus of a megabyte is cut, counted and shared out as one of 171 GB is."""

from preprocess import compressed
from preprocess.cli import main
from preprocess.executors import progress
from preprocess.readers import input_split, plain_text, wikipedia
from preprocess.tokenization import word_counts

compressed.CHUNK_BYTES = 4096
input_split.SPLIT_BYTES = 20_000
plain_text.GROUP_BYTES = 20_000
wikipedia.STREAMS_PER_SPLIT = 4
word_counts.MAX_DISTINCT = 300
word_counts.PARTITION_BYTES = 100_000
progress.INTERVAL_SECONDS = 0.02

if __name__ == "__main__":
    main()
