"""StableAdamW: AdamW whose rate shrinks, for each parameter, where its gradient is larger than its second moment expects (Wortsman et
al.: Stable and low-precision training for large-scale vision-language models, 2023; the clipping is Adafactor's).
"""

from typing import Any

import torch
import torch.distributed as dist

from jadeberta.training.optimizers.partitioned import PartitionedOptimizer


class StableAdamW(PartitionedOptimizer):
    """AdamW with its update clipped by parameter; all its groups have the rule "stable"."""

    def update(self, flat: torch.Tensor, grad: torch.Tensor, state: dict[str, torch.Tensor], group: dict[str, Any]) -> None:
        """See the base class."""
        beta1, beta2 = group["betas"]
        step = float(state["step"])
        state["exp_avg"].lerp_(grad, 1 - beta1)
        state["exp_avg_sq"].mul_(beta2).addcmul_(grad, grad, value=1 - beta2)
        second = state["exp_avg_sq"] / (1 - beta2**step)
        surprise = grad.square().div_(second.clamp_min(group["eps"] ** 2 or torch.finfo(torch.float32).tiny))
        pieces = self.partitions.pieces(flat)
        # A mean over the whole parameter, of which this rank may hold a part: one message for the parameters of the group.
        sums = torch.stack([piece.part_of(surprise).sum(dtype=torch.float64) for piece in pieces])
        dist.all_reduce(sums)
        numels = torch.tensor([piece.numel for piece in pieces], dtype=torch.float64, device=flat.device)
        rates = (group["lr"] / (sums / numels).sqrt_().clamp_min_(1.0)).to(flat.dtype)
        direction = (state["exp_avg"] / (1 - beta1**step)).div_(second.sqrt_().add_(group["eps"]))
        for piece, rate in zip(pieces, rates, strict=True):
            # The decay shrinks with the rate, as in the paper.
            weights = piece.part_of(flat)
            weights.sub_(rate * (piece.part_of(direction) + group["weight_decay"] * weights))
