"""Consolidates the weights of a checkpoint from the fragments in its optimizer files, without an engine or the ranks that wrote them."""

import json
from pathlib import Path
from typing import Literal

import torch
from safetensors import safe_open

from jadeberta.errors import CheckpointError

Weights = Literal["trained", "ema"]
KINDS = {"trained": "master", "ema": "ema"}
"""Prefix of the tensors in the optimizer files."""


def consolidate_weights(directory: Path, weights: Weights = "trained") -> dict[str, torch.Tensor]:
    """Returns every parameter in fp32 and its full shape, by name.

    Args:
        directory: a verified checkpoint.
        weights: trained: the master weights; ema: their running average.

    Raises:
        CheckpointError: a fragment is missing, or the run kept no average.
    """
    kind = KINDS[weights]
    consolidated: dict[str, torch.Tensor] = {}
    filled: dict[str, int] = {}
    for path in sorted(directory.glob("optimizer-*.safetensors")):
        with safe_open(path, "pt") as file:
            held = set(file.keys())
            for name, place in json.loads(file.metadata()["fragments"]).items():
                if f"{kind}.{name}" not in held:
                    raise CheckpointError(
                        f"{path}: holds no {weights} weights; the average is kept with training.ema_decay above 0."
                    )
                fragment = file.get_tensor(f"{kind}.{name}")
                flat = consolidated.setdefault(name, torch.zeros(place["shape"], dtype=torch.float32)).view(-1)
                flat[place["start"] : place["start"] + fragment.numel()] = fragment
                filled[name] = filled.get(name, 0) + fragment.numel()
    # A missing fragment would leave zeros, which look like weights.
    for name, tensor in consolidated.items():
        if filled[name] != tensor.numel():
            raise CheckpointError(f"{directory}: its optimizer files hold {filled[name]} of {tensor.numel()} elements of {name}.")
    if not consolidated:
        raise CheckpointError(f"{directory}: no optimizer files with weights in it.")
    return consolidated
