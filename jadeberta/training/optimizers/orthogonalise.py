"""Orthogonalisation of a matrix by Newton-Schulz: what Muon makes of a momentum. Pure functions of tensors."""

import math

import torch

COEFFICIENTS = (3.4445, -4.7750, 2.0315)
"""Of the quintic, chosen to grow small singular values fast (Jordan et al.: Muon, 2024)."""
STEPS = 5
"""After which the singular values lie about between 0.7 and 1.2."""
MATCHED_RMS = 0.2
"""Root mean square of an update of AdamW (Liu et al.: Muon is scalable for LLM training, 2025)."""


def working_dtype(device: torch.device) -> torch.dtype:
    """The dtype to orthogonalise in: bf16 on GPUs that compute in it, else fp32. A CPU's result shall not depend on which one it is."""
    has_bf16 = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.bfloat16 if has_bf16 else torch.float32


def orthogonalise(matrix: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Returns about U V^T of a matrix U S V^T.

    Args:
        matrix: [rows, columns], fp32.
        dtype: in which the products are taken.

    Returns:
        [rows, columns] in `dtype`; zeros of a matrix of zeros.
    """
    a, b, c = COEFFICIENTS
    # Divided before it is rounded: the Frobenius norm bounds the largest singular value, and a tiny gradient keeps its bits.
    x = (matrix / matrix.norm().clamp_min(1e-20)).to(dtype)
    is_tall = x.size(0) > x.size(1)
    if is_tall:
        x = x.T  # the products below are of the smaller side squared
    for _ in range(STEPS):
        gram = x @ x.T
        x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.T if is_tall else x


def update_scale(shape: tuple[int, ...], rule: str) -> float:
    """Returns the factor of the learning rate for a matrix.

    Args:
        shape: rows and columns.
        rule: match_adamw: the update gets the root mean square that AdamW's has, so that its learning rate carries over; original:
            sqrt(rows / columns), at least 1 (Jordan et al.).
    """
    rows, columns = shape
    return MATCHED_RMS * math.sqrt(max(rows, columns)) if rule == "match_adamw" else math.sqrt(max(1.0, rows / columns))


def multiplications(shape: tuple[int, ...]) -> int:
    """Returns the multiply-adds of one orthogonalisation."""
    small, large = sorted(shape)
    return STEPS * (2 * small * small * large + small**3)
