"""Lion: the sign of an average of the gradients (Chen et al.: Symbolic discovery of optimization algorithms, 2023)."""

from typing import Any

import torch

from jadeberta.training.optimizers.partitioned import PartitionedOptimizer


class Lion(PartitionedOptimizer):
    """One moment, and an update of the same size for every weight; all its groups have the rule "lion"."""

    def moments(self, group: dict[str, Any]) -> tuple[str, ...]:
        """One moment."""
        return ("exp_avg",)

    def update(self, flat: torch.Tensor, grad: torch.Tensor, state: dict[str, torch.Tensor], group: dict[str, Any]) -> None:
        """See the base class."""
        average, (beta1, beta2) = state["exp_avg"], group["betas"]
        direction = torch.lerp(average, grad, 1 - beta1).sign_()
        flat.mul_(1 - group["lr"] * group["weight_decay"]).add_(direction, alpha=-group["lr"])
        average.lerp_(grad, 1 - beta2)
