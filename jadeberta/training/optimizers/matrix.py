"""Muon for hidden matrices, AdamW for the rest (Jordan et al.: Muon, 2024; scale and weight decay as Liu et al.: Muon is scalable for
LLM training, 2025).
"""

from typing import Any

import torch

from jadeberta.training.optimizers.orthogonalise import orthogonalise, update_scale, working_dtype
from jadeberta.training.optimizers.partitioned import PartitionedOptimizer


class MatrixOptimizer(PartitionedOptimizer):
    """Nesterov momentum, orthogonalised, for the groups with the rule "matrix"."""

    orthogonalised = 0
    """Matrices that this rank has orthogonalised since its start; one that lies on two ranks counts on both."""

    def moments(self, group: dict[str, Any]) -> tuple[str, ...]:
        """One moment for the matrices: the momentum."""
        return ("momentum",) if "rule" in group else super().moments(group)

    def update(self, flat: torch.Tensor, grad: torch.Tensor, state: dict[str, torch.Tensor], group: dict[str, Any]) -> None:
        """See the base class. A matrix is orthogonalised whole on each rank that holds a part, which keeps its part of the result."""
        momentum, share = state["momentum"], group["momentum"]
        momentum.lerp_(grad, 1 - share)
        direction = torch.lerp(grad, momentum, share)
        dtype = working_dtype(flat.device)
        flat.mul_(1 - group["lr"] * group["weight_decay"])
        for piece, matrix in self.partitions.whole(flat, direction):
            self.orthogonalised += 1
            whole = orthogonalise(matrix, dtype).reshape(-1)
            part = whole[piece.start : piece.start + piece.length].to(flat.dtype)
            piece.part_of(flat).add_(part, alpha=-group["lr"] * update_scale(piece.shape, group["scale"]))
