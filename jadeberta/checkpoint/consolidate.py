"""The weights of a checkpoint, put together from its optimizer files without an engine or the ranks that wrote them."""

import json
from pathlib import Path
from typing import Literal

import torch
from safetensors import safe_open

from jadeberta.errors import CheckpointError

Weights = Literal["trained", "ema"]
KINDS = {"trained": "master", "ema": "ema"}
"""What the optimizer files call them."""


def whole_weights(directory: Path, weights: Weights = "trained") -> dict[str, torch.Tensor]:
    """Every parameter whole, fp32, put together from the optimizer files of a checkpoint.

    Args:
        directory: a verified checkpoint.
        weights: the masters of the trained weights, or their running average.

    Raises:
        CheckpointError: a piece is missing, or the run kept no average.
    """
    kind = KINDS[weights]
    whole: dict[str, torch.Tensor] = {}
    filled: dict[str, int] = {}
    for path in sorted(directory.glob("optimizer-*.safetensors")):
        with safe_open(path, "pt") as file:
            held = set(file.keys())
            for name, place in json.loads(file.metadata()["fragments"]).items():
                if f"{kind}.{name}" not in held:
                    raise CheckpointError(
                        f"{path}: holds no {weights} weights; the average is kept with training.ema_decay above 0."
                    )
                piece = file.get_tensor(f"{kind}.{name}")
                flat = whole.setdefault(name, torch.zeros(place["shape"], dtype=torch.float32)).view(-1)
                flat[place["start"] : place["start"] + piece.numel()] = piece
                filled[name] = filled.get(name, 0) + piece.numel()
    for name, tensor in whole.items():
        if filled[name] != tensor.numel():
            raise CheckpointError(f"{directory}: its optimizer files hold {filled[name]} of {tensor.numel()} elements of {name}.")
    if not whole:
        raise CheckpointError(f"{directory}: no optimizer files with weights in it.")
    return whole
