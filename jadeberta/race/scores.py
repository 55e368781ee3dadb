"""The test of a race: masked accuracy and bits per character of a finished run, row by row, on held-out rows that nothing was chosen on."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import orjson

from jadeberta.cluster.device import choose_single_device
from jadeberta.data.batches import row_chunks
from jadeberta.data.masking import Masker
from jadeberta.errors import ConfigError
from jadeberta.evaluation.mlm import EVALUATION_SEED, resolve_checkpoint, score_rows
from jadeberta.model import load
from jadeberta.shards import ShardReader
from jadeberta.shards import open as open_shards
from jadeberta.start.source_vocabulary import BYTE, SPECIAL, read_tokenizer_files, read_vocabulary
from jadeberta.utils.files import write_atomically

TEST_MASKS = 0.15
"""Share of the tokens to predict, whatever share a run was trained with."""
FILE = "test.json"


@dataclass
class RowScores:
    """Figures of each test row; all lists have the same length."""

    correct: list[int]
    masked: list[int]
    nats: list[float]
    """Summed cross-entropy of the masked tokens."""
    characters: list[int]
    """Characters of the masked tokens."""


def split_heldout(corpora: dict[str, range]) -> tuple[int, dict[str, range]]:
    """Divides the held-out rows: the first of each corpus serve to choose settings, the others are the test.

    Args:
        corpora: held-out rows by corpus.

    Returns:
        Number of rows of each corpus to choose on (a third of the smallest corpus), and the test rows by corpus.

    Raises:
        ConfigError: a corpus has too few rows.
    """
    smallest = min(map(len, corpora.values()), default=0)
    if smallest < 3:
        raise ConfigError(
            f"the shards hold out {smallest} rows of a corpus; a race needs at least 3 of each. Set preprocess.heldout_documents higher."
        )
    return smallest // 3, {name: rows[smallest // 3 :] for name, rows in corpora.items()}


def score_run(run_dir: Path, shards_dir: str, row_length: int, batch_size: int = 16) -> None:
    """Scores the newest checkpoint of a run on the test rows and writes `test.json` into its directory.

    Raises:
        CheckpointError: it has none that can be trusted.
    """
    shards = open_shards(shards_dir, "valid", sequence_length=row_length)
    index = shards.index
    masker = Masker(EVALUATION_SEED, index.vocab_size, TEST_MASKS, special=index.special_tokens)
    model = load(resolve_checkpoint(run_dir), "sdpa").eval().to(choose_single_device())
    lengths = characters_of(shards)
    found = RowScores([], [], [], [])
    _, corpora = split_heldout(shards.corpora)
    for rows in corpora.values():
        for chunk in row_chunks(rows, batch_size):
            scored = score_rows(model, shards, chunk, masker)
            for kept, values in zip(
                (found.correct, found.masked, found.nats, found.characters),
                (scored.correct, np.ones(len(scored.labels)), scored.loss, lengths[scored.labels]),
                strict=True,
            ):
                kept += np.bincount(scored.row, weights=values, minlength=len(chunk)).tolist()  # type: ignore[operator]
    write_atomically(run_dir / FILE, orjson.dumps(asdict(found) | {"row_length": row_length, "masks": TEST_MASKS}))


def characters_of(shards: ShardReader) -> np.ndarray:
    """Returns the number of characters of each token, float64: of those that begin in it, where a token is a part of one.

    Special tokens have none, and the mark or space of a word's start is none.

    Raises:
        CheckpointError: the tokenizer beside the shards is damaged.
    """
    folder = shards.directory / "tokenizer"
    vocabulary = read_vocabulary(read_tokenizer_files(folder), str(folder))
    lengths = np.zeros(max(shards.index.vocab_size, len(vocabulary.keys)))
    for token, key in enumerate(vocabulary.keys):
        if key is not None and token not in vocabulary.specials and not key.startswith(SPECIAL):
            text = key.removeprefix(BYTE).removeprefix(b" ")
            lengths[token] = sum(
                byte & 0xC0 != 0x80 for byte in text
            )  # UTF-8: all but the first byte of a character begin with 10
    return lengths


def read_scores(run_dir: Path) -> RowScores | None:
    """Returns the figures of a tested run; None where it was not tested."""
    try:
        found = orjson.loads((run_dir / FILE).read_bytes())
        return RowScores(**{key: found[key] for key in RowScores.__dataclass_fields__})
    except (OSError, ValueError, KeyError, TypeError):
        return None


def mean_accuracy(scores: Sequence[RowScores]) -> float:
    """Returns the accuracy over all masked tokens, mean of several runs."""
    return float(np.mean([sum(each.correct) / sum(each.masked) for each in scores]))
