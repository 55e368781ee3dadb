"""The shard format: index, writer, reader, checksums, verify, scrub. Of jadeberta, `preprocess` uses this package, utils and errors.

A directory holds tar files of token rows and one `index.json` that says what is in them and how it was made.
"""

from jadeberta.errors import ConfigError, InputError, JadebertaError, OutputError, ResourceError, SegmenterError, ShardError
from jadeberta.shards.checksums import checksums_path, ensure_checksums
from jadeberta.shards.index import INDEX_NAME, WORD_START, CorpusEntry, Packing, ShardEntry, ShardIndex, find_index
from jadeberta.shards.reader import ExcludedRows, ShardReader, open_shards
from jadeberta.shards.row_format import LONGEST_ROW, SHORTEST_ROW, RowFormat, token_dtype_of
from jadeberta.shards.tokenizer_format import SpecialTokens
from jadeberta.shards.verify import verify
from jadeberta.shards.writer import BLOCK_SEQUENCES, SEQUENCE_LENGTH, write_shard
from jadeberta.utils.files import file_sha256
from jadeberta.utils.locks import DirectoryLock, GroupLock, holder_of, is_held
from jadeberta.utils.recipe_errors import explain_recipe_error

open = open_shards

__all__ = [
    "BLOCK_SEQUENCES",
    "INDEX_NAME",
    "LONGEST_ROW",
    "SEQUENCE_LENGTH",
    "SHORTEST_ROW",
    "WORD_START",
    "ConfigError",
    "CorpusEntry",
    "DirectoryLock",
    "ExcludedRows",
    "GroupLock",
    "InputError",
    "JadebertaError",
    "OutputError",
    "Packing",
    "ResourceError",
    "RowFormat",
    "SegmenterError",
    "ShardEntry",
    "ShardError",
    "ShardIndex",
    "ShardReader",
    "SpecialTokens",
    "checksums_path",
    "ensure_checksums",
    "explain_recipe_error",
    "file_sha256",
    "find_index",
    "holder_of",
    "is_held",
    "open",
    "open_shards",
    "token_dtype_of",
    "verify",
    "write_shard",
]
