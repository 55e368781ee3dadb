"""`jadeberta evaluate mlm`: accuracy on masked tokens of held-out documents, per corpus and over all.

Masks are keyed by a fixed seed and the row, so that every checkpoint predicts the same tokens. Promises that the figures name the weights,
the rows and the tokenizer that they are of, and that the number of rows at once changes nothing but the last digits.
"""

import json
import logging
import math
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from jadeberta.checkpoint.manifest import MANIFEST_NAME, choose, list_checkpoints, verify
from jadeberta.cluster.device import choose_single_device, describe_device
from jadeberta.data.batches import make_micro_batch, row_chunks
from jadeberta.data.masking import Masker
from jadeberta.errors import CheckpointError, ConfigError, NothingToResume
from jadeberta.evaluation.bootstrap import ratio_intervals
from jadeberta.evaluation.identity import read_evaluated, split_fingerprint, training_fingerprints
from jadeberta.evaluation.mlm_inputs import keeps_apart, load_model, read_config, refuse_unfit_shards, refuse_unwritable
from jadeberta.evaluation.replaced import evaluate_replaced
from jadeberta.model import DebertaForMaskedLM
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
    by_document: bool | None = None,
) -> dict[str, dict[str, Any]]:
    """Masked accuracy of a model, per corpus and under "all".

    Args:
        model: in eval mode, on its device.
        shards: the split to evaluate on.
        batch_size: rows at once.
        mask_probability: share of the tokens to predict, masked as in training.
        seed: of the masks.
        limit: rows of each corpus; 0 takes all.
        by_document: keep attention inside each document. None: in rows that were packed best_fit, as in training.

    Returns:
        For each corpus and "all": accuracy, loss (nats a masked token), perplexity, masked_tokens, sequences, documents,
        unigram_accuracy (the accuracy of always predicting the most frequent token) and interval: ends of the 95% interval of accuracy
        and loss, from resampling documents.

    Raises:
        ConfigError: the split holds no token to predict.
    """
    special = shards.index.special_tokens
    masker = Masker(seed, shards.index.vocab_size, mask_probability, special=special)
    results, every = {}, np.zeros(model.config.vocab_size, np.int64)
    totals, strata = np.zeros(4), []
    for name, rows in shards.corpora.items():
        sums = np.zeros(4)  # correct, loss, masked tokens, sequences
        counts = np.zeros(model.config.vocab_size, np.int64)
        documents = _DocumentSums()
        for chunk in row_chunks(rows if not limit else rows[:limit], batch_size):
            scored = score_rows(model, shards, chunk, masker, by_document)
            sums += (scored.correct.sum(), scored.loss.sum(), len(scored.labels), len(chunk))
            counts += np.bincount(scored.labels, minlength=len(counts))
            documents.add(scored)
        strata.append(documents.sums())
        if sums[2]:
            results[name] = _figures(sums, counts, strata[-1:])
        totals, every = totals + sums, every + counts
    if not totals[2]:
        raise ConfigError(
            f"{shards.directory}: its {shards.split} split holds no token to predict; it needs preprocess.heldout_documents."
        )
    return results | {"all": _figures(totals, every, strata)}


class _DocumentSums:
    """Correct predictions, loss and masked tokens of each document, from rows in their order."""

    def __init__(self) -> None:
        self._last = -1  # number of the newest document among all
        self._parts: list[np.ndarray] = []
        self._numbers: list[np.ndarray] = []

    def add(self, scored: "Scored") -> None:
        """Adds the next rows; a document that goes on in the next row is one."""
        first = np.empty(len(scored.continues), np.int64)
        for row, (goes_on, count) in enumerate(zip(scored.continues.tolist(), scored.documents.tolist(), strict=True)):
            first[row] = self._last if goes_on and self._last >= 0 else self._last + 1
            self._last = max(self._last, int(first[row]) + count - 1)
        self._numbers.append(first[scored.row] + scored.document - 1)
        self._parts.append(np.stack([scored.correct, scored.loss, np.ones(len(scored.loss))], axis=1))

    def sums(self) -> np.ndarray:
        """The sums, float64 [documents, 3]."""
        numbers, values = (
            np.concatenate([*self._numbers, [0][:0]]).astype(np.int64),
            np.concatenate([*self._parts, np.zeros((0, 3))]),
        )
        return np.stack([np.bincount(numbers, column, self._last + 1) for column in values.T], axis=1)


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
    document: np.ndarray
    """Number of its document within the row, from 1."""
    documents: np.ndarray
    """Documents of each row; one entry a row."""
    continues: np.ndarray
    """Whether a row begins in the middle of a document; one entry a row."""


def score_rows(
    model: DebertaForMaskedLM, shards: ShardReader, rows: np.ndarray, masker: Masker, by_document: bool | None = None
) -> Scored:
    """Predicts the masked tokens of rows; of rows of very few tokens there may be none.

    Args:
        model: in eval mode, on its device.
        shards: the split that the rows are of.
        rows: their numbers.
        masker: masks them, by these numbers in epoch 0.
        by_document: keep attention inside each document. None: in rows that were packed best_fit.
    """
    device, special = next(model.parameters()).device, shards.index.special_tokens
    by_document = shards.index.packing == "best_fit" if by_document is None else by_document
    tokens, documents = shards.rows(rows)
    borders = documents.max(axis=1).astype(np.int64), tokens[:, 0] != special.cls
    ids, labels = masker(tokens, np.zeros_like(rows), rows)
    batch = make_micro_batch(ids, labels, tokens, documents if by_document else None, special.pad)
    index = batch.masked_index.numpy()
    places = index // tokens.shape[1], documents.ravel()[index].astype(np.int64)
    if not len(batch.labels):
        nothing = np.zeros(0, np.int64)
        return Scored(nothing, nothing, np.zeros(0), np.zeros(0, bool), nothing, *borders)
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
    return Scored(places[0], batch.labels.numpy(), loss.cpu().numpy(), correct.cpu().numpy(), places[1], *borders)


def _figures(sums: np.ndarray, counts: np.ndarray, strata: list[np.ndarray]) -> dict[str, Any]:
    """Figures of some corpora.

    Args:
        sums: correct, loss, masked tokens, sequences.
        counts: how often each token was to be predicted.
        strata: of each corpus, correct, loss and masked tokens of each document.
    """
    correct, loss, masked, sequences = sums.tolist()
    return {
        "accuracy": correct / masked,
        "loss": loss / masked,
        "perplexity": math.exp(min(loss / masked, 700.0)),  # e^710 is beyond a float
        "unigram_accuracy": int(counts.max()) / masked,
        "masked_tokens": int(masked),
        "sequences": int(sequences),
        "documents": sum(int((part[:, 2] > 0).sum()) for part in strata),
        "interval": ratio_intervals(strata, {"accuracy": 0, "loss": 1}, 2),
    }


def _spread(found: list[dict[str, dict[str, Any]]], first: int) -> dict[str, Any]:
    """Mean and standard deviation over mask seeds, per corpus and under "all"; the deviation of one seed is None.

    Args:
        found: figures of each seed.
        first: the first seed; the others follow it.
    """
    spread: dict[str, Any] = {"seeds": list(range(first, first + len(found)))}
    for corpus in found[0]:
        for key in ("accuracy", "loss"):
            values = [figures[corpus][key] for figures in found]
            deviation = float(np.std(values, ddof=1)) if len(values) > 1 else None
            spread.setdefault(corpus, {})[key] = {"mean": float(np.mean(values)), "deviation": deviation, "values": values}
    return spread


def main(arguments: list[str]) -> int:
    """Prints the figures as one JSON object."""
    parser = OneSentenceParser(
        prog="jadeberta evaluate",
        description="Accuracy on masked tokens of held-out documents, as JSON. For raw texts and "
        "models of any kind, see 'jadeberta evaluate text --help'.",
    )
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
    parser.add_argument(
        "--seeds", type=int, default=1, help="masks of this many seeds, from --seed on, for their spread (default 1)"
    )
    parser.add_argument(
        "--documents",
        choices=["auto", "apart", "together"],
        default="auto",
        help="whether the documents of a row see each other; auto: as in the training, where the checkpoint or the shards say so",
    )
    parser.add_argument("--output", type=path_option, help="also write the JSON there")
    parser.add_argument("--dry-run", action="store_true", help="check the inputs, evaluate nothing")
    options = parser.parse_args(arguments)
    if options.batch_size < 1 or options.limit < 0 or not 0 < options.mask_probability < 1 or options.seeds < 1:
        raise ConfigError("--batch-size and --seeds must be at least 1, --limit at least 0, --mask-probability between 0 and 1.")
    if not 0 <= options.seed <= 2**63 - options.seeds:
        raise ConfigError(f"--seed is {options.seed}; it must be at least 0 and below 2^63.")
    if options.output is not None:
        refuse_unwritable(options.output)
    checkpoint = resolve_checkpoint(options.checkpoint)
    shards = open_shards(options.shards, options.split, sequence_length=options.sequence_length)
    config = read_config(checkpoint)
    refuse_unfit_shards(checkpoint, config, shards)
    evaluated = read_evaluated(checkpoint, options.weights)
    is_apart = keeps_apart(options.documents, evaluated.packing, shards, options.attention)
    if options.dry_run:
        print(f"would evaluate {checkpoint} on {len(shards)} sequences of {shards.directory} ({options.split})")
        return 0
    pair = None
    if pair_settings(checkpoint) is not None:
        pair = load_pair(checkpoint, evaluated.weights, options.attention)
    # Of generator and discriminator, the generator predicts masked tokens.
    model = load_model(checkpoint, evaluated.weights, options.attention) if pair is None else pair.generator
    device = choose_single_device()
    # Not on standard output, which is one JSON document.
    print(f"device {describe_device(device)}", file=sys.stderr, flush=True)
    if pair is not None:
        pair.eval().to(device)
    model = model.eval().to(device)
    how: dict[str, Any] = {
        "batch_size": options.batch_size,
        "mask_probability": options.mask_probability,
        "limit": options.limit,
        "by_document": is_apart,
    }
    found = [evaluate_mlm(model, shards, seed=options.seed + number, **how) for number in range(options.seeds)]
    figures = found[0]
    document: dict[str, Any] = {
        "checkpoint": str(checkpoint),
        "shards": str(shards.directory),
        "fingerprint": shards.index.fingerprint,
        # What ties the figures to a release: `export` refuses those of other weights or shards.
        "weights_sha256": evaluated.sha256,
        "step": evaluated.step,
        "tokenizer_sha256": shards.index.tokenizer_sha256,
        "fingerprints": training_fingerprints(shards),
        "split_sha256": split_fingerprint(shards.index, options.split),
        "weights": options.weights,
        "split": options.split,
        "sequence_length": shards.sequence_length,
        "mask_probability": options.mask_probability,
        "seed": options.seed,
        "documents_apart": is_apart,
        "limit": options.limit,
        "sequences_available": len(shards),
        # Beside the figures, so that whoever reads them sees that all rows may give others.
        "is_partial": bool(options.limit) and any(len(rows) > options.limit for rows in shards.corpora.values()),
        "accuracy": figures["all"]["accuracy"],
        "corpora": {k: v for k, v in figures.items() if k != "all"},
        "all": figures["all"],
    }
    if pair is not None:
        document["discriminator"] = evaluate_replaced(pair, shards, seed=options.seed, **how)
    if options.seeds > 1:
        document["spread"] = _spread(found, options.seed)
    text = json.dumps(document, indent=2, ensure_ascii=False)
    print(text)
    if options.output is not None:
        options.output.parent.mkdir(parents=True, exist_ok=True)
        options.output.write_text(text + "\n", encoding="utf-8")
    return 0
