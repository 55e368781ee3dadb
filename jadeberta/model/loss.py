"""The training loss: cross-entropy over the masked tokens, and the z-loss if the recipe sets one."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from transformers.utils import ModelOutput

from jadeberta.model_constants import IGNORED


@dataclass
class MaskedSums(ModelOutput):
    """The contribution of one micro-batch to a step."""

    loss: torch.Tensor | None = None
    """fp32 [], the sum that `masked_loss` returns."""
    correct: torch.Tensor | None = None
    """int64 [], the number of masked tokens that were predicted correctly."""


def masked_sums(logits: torch.Tensor, labels: torch.Tensor, z_loss: float) -> MaskedSums:
    """Loss and number of correct predictions over the masked tokens; arguments as for `masked_loss`, logits of any dtype."""
    wide = logits.float()
    return MaskedSums(masked_loss(wide, labels, z_loss), (wide.detach().argmax(-1) == labels).sum())


def masked_loss(logits: torch.Tensor, labels: torch.Tensor, z_loss: float = 0.0) -> torch.Tensor:
    """Sum of the cross-entropy over the masked tokens, whose gradient is that of cross-entropy + z_loss * log(Z)^2.

    The z-loss keeps the log-partition log(Z) of a token's logits near 0, so that they do not drift (Chowdhery et al. 2022, PaLM,
    arXiv:2204.02311, section 5). It changes the gradient and not the value, so that losses with and without it can be compared.

    Args:
        logits: fp32 [masked, vocab].
        labels: int64 [masked]; IGNORED where the list of masked tokens is padded.
        z_loss: its weight; 0 leaves it out.
    """
    loss = F.cross_entropy(logits, labels, reduction="sum", ignore_index=IGNORED)
    if not z_loss:
        return loss
    penalty = z_loss * (logits.logsumexp(-1).square() * (labels != IGNORED)).sum()
    return loss + (penalty - penalty.detach())
