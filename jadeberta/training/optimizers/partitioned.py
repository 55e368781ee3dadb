"""What the optimizers of this folder share: they update ZeRO's flat partitions, and know the parameters in them."""

from abc import ABC, abstractmethod
from typing import Any

import torch

from jadeberta.training.optimizers.partitions import Partitions


class PartitionedOptimizer(torch.optim.AdamW, ABC):
    """AdamW by torch, with groups that have a rule of their own (key `rule`).

    No name of a class here holds "Muon": DeepSpeed looks for that in the name, and would orthogonalise gradients by itself, before they
    are clipped and before the guard has seen them.
    """

    partitions: Partitions
    """Set once ZeRO has cut the parameters."""

    def moments(self, group: dict[str, Any]) -> tuple[str, ...]:
        """Names of the tensors that the update of a group keeps beside its weights."""
        return ("exp_avg", "exp_avg_sq")

    @abstractmethod
    def update(self, flat: torch.Tensor, grad: torch.Tensor, state: dict[str, torch.Tensor], group: dict[str, Any]) -> None:
        """Updates a flat partition of a group with a rule, in place; every rank calls it.

        Args:
            flat: fp32 weights.
            grad: mean of the global batch, clipped.
            state: the moments, and `step`, which counts this update already.
            group: its settings.
        """

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Makes one update of the groups that `param_groups` holds now: ZeRO gives one after another."""
        groups = self.param_groups
        for group in groups:
            if "rule" not in group:
                self.param_groups = [group]
                super().step()
                continue
            for flat in group["params"]:
                state = self.state[flat]
                state["step"] += 1
                self.update(flat, flat.grad, state, group)
        self.param_groups = groups
