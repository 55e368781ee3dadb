"""`jadeberta evaluate mlm`: accuracy on masked tokens of held-out documents, per corpus and over all.

Masks are keyed by a fixed seed and the row, so that every checkpoint predicts the same tokens.
"""

import json
import logging
import math
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from jadeberta.checkpoint.consolidate import consolidate_weights
from jadeberta.checkpoint.manifest import MANIFEST_NAME, choose, list_checkpoints, verify
from jadeberta.cluster.device import choose_single_device, describe_device
from jadeberta.data.batches import make_micro_batch, row_chunks
from jadeberta.data.masking import Masker
from jadeberta.errors import CheckpointError, ConfigError, NothingToResume
from jadeberta.evaluation.replaced import evaluate_replaced
from jadeberta.model import DebertaForMaskedLM, load
from jadeberta.model.load import load_pair, pair_settings
from jadeberta.shards import ShardReader
from jadeberta.shards import open as open_shards
from jadeberta.utils.command_line import OneSentenceParser
from jadeberta.utils.paths import path_option

logger = logging.getLogger(__name__)

EVALUATION_SEED = 1234
"""Seed of the masks; figures of two seeds are not comparable."""


def resolve_checkpoint(path: Path) -> Path:
    """Finds what to evaluate: a checkpoint or an exported directory as it is, of a run directory its newest valid checkpoint.

    Raises:
        CheckpointError: the path is none of these, or its checkpoints cannot be trusted.
        NothingToResume: none of the run's checkpoints is valid.
    """
    for root in (path / "checkpoints", path):
        if list_checkpoints(root):
            try:
                found = choose(root, "required", logger.warning)
            except NothingToResume as e:
                # There, it is the answer to an option of pretrain.
                raise NothingToResume(
                    f"{root}: no checkpoint there can be trusted. Name another run; 'jadeberta checkpoint verify' shows what is wrong."
                ) from e
            assert found is not None
            return found
    if (path / MANIFEST_NAME).exists() and (faults := verify(path)):
        raise CheckpointError(f"{faults[0]} Name another checkpoint; 'jadeberta checkpoint verify' shows which can be trusted.")
    if not (path / "config.json").is_file():
        raise CheckpointError(f"{path}: neither a checkpoint, nor an exported directory, nor a run with checkpoints.")
    return path


def evaluate_mlm(
    model: DebertaForMaskedLM,
    shards: ShardReader,
    *,
    batch_size: int,
    mask_probability: float,
    seed: int = EVALUATION_SEED,
    limit: int = 0,
) -> dict[str, dict[str, float]]:
    """Masked accuracy of a model, per corpus and under "all".

    Args:
        model: in eval mode, on its device.
        shards: the split to evaluate on.
        batch_size: rows at once.
        mask_probability: share of the tokens to predict, masked as in training.
        seed: of the masks.
        limit: rows of each corpus; 0 takes all.

    In rows that were packed best_fit attention stays inside each document, as in training.

    Returns:
        For each corpus and "all": accuracy, loss (nats a masked token), perplexity, masked_tokens, sequences, and
        unigram_accuracy: the accuracy of always predicting the most frequent token.

    Raises:
        ConfigError: the split holds no token to predict.
    """
    special = shards.index.special_tokens
    masker = Masker(seed, shards.index.vocab_size, mask_probability, special=special)
    results, every = {}, np.zeros(model.config.vocab_size, np.int64)
    totals = np.zeros(4)
    for name, rows in shards.corpora.items():
        sums = np.zeros(4)  # correct, loss, masked tokens, sequences
        counts = np.zeros(model.config.vocab_size, np.int64)
        for chunk in row_chunks(rows if not limit else rows[:limit], batch_size):
            scored = score_rows(model, shards, chunk, masker)
            sums += (scored.correct.sum(), scored.loss.sum(), len(scored.labels), len(chunk))
            counts += np.bincount(scored.labels, minlength=len(counts))
        if sums[2]:
            results[name] = _figures(sums, counts)
        totals, every = totals + sums, every + counts
    if not totals[2]:
        raise ConfigError(
            f"{shards.directory}: its {shards.split} split holds no token to predict; it needs preprocess.heldout_documents."
        )
    return results | {"all": _figures(totals, every)}


@dataclass(frozen=True)
class Scored:
    """What a model predicts at the masked tokens of some rows; one entry a masked token."""

    row: np.ndarray
    """Place of its row among the rows, from 0."""
    labels: np.ndarray
    """The token that was masked."""
    loss: np.ndarray
    """Cross-entropy, nats, float64."""
    correct: np.ndarray
    """Whether the most probable token is the one that was masked."""


def score_rows(model: DebertaForMaskedLM, shards: ShardReader, rows: np.ndarray, masker: Masker) -> Scored:
    """Predicts the masked tokens of rows; of rows of very few tokens there may be none.

    Args:
        model: in eval mode, on its device.
        shards: the split that the rows are of.
        rows: their numbers.
        masker: masks them, by these numbers in epoch 0.
    """
    device, by_document = next(model.parameters()).device, shards.index.packing == "best_fit"
    tokens, documents = shards.rows(rows)
    ids, labels = masker(tokens, np.zeros_like(rows), rows)
    batch = make_micro_batch(ids, labels, tokens, documents if by_document else None, shards.index.special_tokens.pad)
    if not len(batch.labels):
        nothing = np.zeros(0, np.int64)
        return Scored(nothing, nothing, np.zeros(0), np.zeros(0, bool))
    mask = None if batch.attention_mask is None else batch.attention_mask.to(device)
    document_ids = None if batch.document_ids is None else batch.document_ids.to(device)
    targets = batch.labels.to(device)
    with torch.inference_mode():
        logits = model(
            batch.input_ids.to(device),
            attention_mask=mask,
            document_ids=document_ids,
            masked_index=batch.masked_index.to(device),
        ).logits.float()
        loss = F.cross_entropy(logits, targets, reduction="none").double()
        correct = logits.argmax(-1) == targets
    return Scored(batch.masked_index.numpy() // tokens.shape[1], batch.labels.numpy(), loss.cpu().numpy(), correct.cpu().numpy())


def _figures(sums: np.ndarray, counts: np.ndarray) -> dict[str, float]:
    """Figures from [correct, loss, masked tokens, sequences] and how often each token was to be predicted."""
    correct, loss, masked, sequences = sums.tolist()
    return {
        "accuracy": correct / masked,
        "loss": loss / masked,
        "perplexity": math.exp(min(loss / masked, 700.0)),  # e^710 is beyond a float
        "unigram_accuracy": int(counts.max()) / masked,
        "masked_tokens": int(masked),
        "sequences": int(sequences),
    }


def main(arguments: list[str]) -> int:
    """Prints the figures as one JSON object."""
    parser = OneSentenceParser(prog="jadeberta evaluate", description="Accuracy on masked tokens of held-out documents, as JSON.")
    parser.add_argument("what", choices=["mlm"], help="mlm: masked-token accuracy per corpus and over all")
    parser.add_argument(
        "--checkpoint",
        type=path_option,
        required=True,
        help="a checkpoint, an exported directory, or a run (its newest checkpoint)",
    )
    parser.add_argument("--weights", choices=["trained", "ema"], default="trained", help="ema: a checkpoint's running average")
    parser.add_argument("--shards", type=path_option, required=True, help="directory with index.json")
    parser.add_argument(
        "--split", choices=["valid", "train"], default="valid", help="held-out documents (default) or training rows"
    )
    parser.add_argument(
        "--sequence-length", type=int, help="tokens of the rows, where the shards have several lengths (default: the first)"
    )
    parser.add_argument(
        "--attention", choices=["eager", "sdpa", "fused"], default="sdpa", help="form of the attention (default sdpa)"
    )
    parser.add_argument("--batch-size", type=int, default=16, help="rows at once")
    parser.add_argument("--limit", type=int, default=0, help="rows of each corpus; 0 takes all")
    parser.add_argument("--mask-probability", type=float, default=0.15, help="share of the tokens to predict (default 0.15)")
    parser.add_argument("--seed", type=int, default=EVALUATION_SEED, help="of the masks")
    parser.add_argument("--output", type=path_option, help="also write the JSON there")
    parser.add_argument("--dry-run", action="store_true", help="check the inputs, evaluate nothing")
    options = parser.parse_args(arguments)
    if options.batch_size < 1 or options.limit < 0 or not 0 < options.mask_probability < 1:
        raise ConfigError("--batch-size must be at least 1, --limit at least 0, --mask-probability between 0 and 1.")
    if options.output is not None:
        _refuse_unwritable(options.output)
    checkpoint = resolve_checkpoint(options.checkpoint)
    shards = open_shards(options.shards, options.split, sequence_length=options.sequence_length)
    pair = None
    if pair_settings(checkpoint) is not None:
        pair = load_pair(checkpoint, consolidate_weights(checkpoint, options.weights), options.attention)
    # Of generator and discriminator, the generator predicts masked tokens.
    model = load(checkpoint, options.attention) if pair is None else pair.generator
    # More embeddings than pieces: those of a model that was published so stay, and are no token's.
    if model.config.vocab_size < shards.index.vocab_size:
        raise ConfigError(
            f"{checkpoint}: a vocabulary of {model.config.vocab_size}, but {shards.index_path} was made with "
            f"{shards.index.vocab_size} pieces. Name the shards of this model's tokenizer."
        )
    if shards.sequence_length > model.config.max_position_embeddings:
        raise ConfigError(
            f"{checkpoint}: takes rows of up to {model.config.max_position_embeddings} tokens (max_position_embeddings), but those of "
            f"{shards.index_path} have {shards.sequence_length}. Name another length with --sequence-length, or other shards."
        )
    if shards.index.packing == "best_fit" and options.attention == "eager":
        raise ConfigError(
            f"--attention eager: cannot keep the documents of a row apart, and {shards.index_path} was packed best_fit. Choose sdpa."
        )
    if options.dry_run:
        print(f"would evaluate {checkpoint} on {len(shards)} sequences of {shards.directory} ({options.split})")
        return 0
    if options.weights == "ema" and pair is None:
        model.load_state_dict(consolidate_weights(checkpoint, "ema"), strict=False)
    device = choose_single_device()
    # Not on standard output, which is one JSON document.
    print(f"device {describe_device(device)}", file=sys.stderr, flush=True)
    if pair is not None:
        pair.eval().to(device)
    model = model.eval().to(device)
    how: dict[str, Any] = {
        "batch_size": options.batch_size,
        "mask_probability": options.mask_probability,
        "seed": options.seed,
        "limit": options.limit,
    }
    figures = evaluate_mlm(model, shards, **how)
    document: dict[str, Any] = {
        "checkpoint": str(checkpoint),
        "shards": str(shards.directory),
        "fingerprint": shards.index.fingerprint,
        "weights": options.weights,
        "split": options.split,
        "sequence_length": shards.sequence_length,
        "mask_probability": options.mask_probability,
        "seed": options.seed,
        "limit": options.limit,
        "sequences_available": len(shards),
        # Beside the figures, so that whoever reads them sees that all rows may give others.
        "is_partial": bool(options.limit) and any(len(rows) > options.limit for rows in shards.corpora.values()),
        "accuracy": figures["all"]["accuracy"],
        "corpora": {k: v for k, v in figures.items() if k != "all"},
        "all": figures["all"],
    }
    if pair is not None:
        document["discriminator"] = evaluate_replaced(pair, shards, **how)
    text = json.dumps(document, indent=2, ensure_ascii=False)
    print(text)
    if options.output is not None:
        options.output.parent.mkdir(parents=True, exist_ok=True)
        options.output.write_text(text + "\n", encoding="utf-8")
    return 0


def _refuse_unwritable(output: Path) -> None:
    """Raises ConfigError where a file cannot be written, before the hours of work that it is for."""
    if output.is_dir():
        raise ConfigError(f"--output {output}: is a directory; name a file.")
    there = next(path for path in (output, *output.absolute().parents) if path.exists())
    if there != output and not there.is_dir():
        raise ConfigError(f"--output {output}: {there} is no directory; name another file.")
    if not os.access(there, os.W_OK):
        raise ConfigError(f"--output {output}: cannot be written there; name another file.")
