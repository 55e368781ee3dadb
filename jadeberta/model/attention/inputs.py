"""What attention is computed from, the same for every implementation."""

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class AttentionInputs:
    """Inputs of both passes. B: batch size; S: tokens in a row; H: heads; D: size of a head."""

    qkv: torch.Tensor  # [B, S, 3, H, D]
    position_keys: torch.Tensor | None  # [rows, H, D], projected; None: no content-to-position term
    position_queries: torch.Tensor | None  # [rows, H, D]; None: no position-to-content term
    bucket_ids: torch.Tensor  # int64 [2 * S - 1], from distance_buckets
    document_ids: torch.Tensor | None  # [B, S]: tokens of equal numbers see each other; None: all do
    seed: torch.Tensor  # int64 [], of the dropout mask
    dropout: float  # share of the weights that is zeroed
    scale: float  # of the scores
