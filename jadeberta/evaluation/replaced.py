"""Accuracy of a discriminator on held-out rows: which tokens it takes for replaced, at places that its own generator has filled."""

from typing import Any

import numpy as np
import torch

from jadeberta.data.batches import make_micro_batch, row_chunks
from jadeberta.data.masking import Masker
from jadeberta.errors import ConfigError
from jadeberta.model.replaced_tokens import ReplacedTokenModel
from jadeberta.shards import ShardReader


def evaluate_replaced(
    model: ReplacedTokenModel,
    shards: ShardReader,
    *,
    batch_size: int,
    mask_probability: float,
    seed: int,
    limit: int = 0,
    by_document: bool | None = None,
) -> dict[str, dict[str, float]]:
    """Figures of the discriminator, per corpus and under "all"; the draws are keyed as the masks are.

    Args:
        model: in eval mode, on its device.
        shards: the split to evaluate on.
        batch_size: rows at once.
        mask_probability: share of the tokens that the generator fills.
        seed: of masks and draws.
        limit: rows of each corpus; 0 takes all.
        by_document: keep attention inside each document. None: in rows that were packed best_fit.

    Returns:
        For each corpus and "all": accuracy, loss (nats a token), replaced_accuracy and original_accuracy (of the tokens of either kind;
        0 where there is none), replaced_share, and tokens, padding left out.

    Raises:
        ConfigError: the split holds no token.
    """
    special = shards.index.special_tokens
    is_apart = shards.index.packing == "best_fit" if by_document is None else by_document
    masker = Masker(seed, shards.index.vocab_size, mask_probability, special=special)
    device = next(model.parameters()).device
    results, every = {}, np.zeros(5)
    for name, rows in shards.corpora.items():
        chosen, sums = rows if not limit else rows[:limit], np.zeros(5)
        for numbers in row_chunks(chosen, batch_size):
            tokens, documents = shards.rows(numbers)
            ids, labels = masker(tokens, np.zeros_like(numbers), numbers)
            batch = make_micro_batch(ids, labels, tokens, documents if is_apart else None, special.pad)
            draws = masker.draws(ids.shape, np.zeros_like(numbers), numbers).ravel()[batch.masked_index.numpy()]
            given: dict[str, Any] = {k: v if v is None else v.to(device) for k, v in vars(batch).items()}
            with torch.inference_mode():
                found = model(**given | {"draws": torch.from_numpy(draws).to(device)})
            names = ("discriminator_loss", "replaced", "replaced_found", "original_found")
            sums[0] += np.count_nonzero(tokens != special.pad)
            sums[1:] += [float(getattr(found, key)) for key in names]
        if sums[0]:
            results[name] = _figures(*sums.tolist())
        every += sums
    if not every[0]:
        raise ConfigError(f"{shards.directory}: its {shards.split} split holds no token; it needs preprocess.heldout_documents.")
    return results | {"all": _figures(*every.tolist())}


def _figures(tokens: float, loss: float, replaced: float, replaced_found: float, original_found: float) -> dict[str, float]:
    """Figures from sums over some rows."""
    return {
        "accuracy": (replaced_found + original_found) / tokens,
        "loss": loss / tokens,
        "replaced_accuracy": replaced_found / max(1.0, replaced),
        "original_accuracy": original_found / max(1.0, tokens - replaced),
        "replaced_share": replaced / tokens,
        "tokens": int(tokens),
    }
