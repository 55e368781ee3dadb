"""Consolidates the weights of a checkpoint from the fragments in its optimizer files, without an engine or the ranks that wrote them."""

import json
from pathlib import Path
from typing import Literal

import torch
from safetensors import SafetensorError, safe_open

from jadeberta.checkpoint.manifest import read_manifest_files
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
        CheckpointError: a fragment is missing or does not fit, or the run kept no average.
    """
    try:
        return _consolidate(directory, weights)
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError) as e:
        raise CheckpointError(f"{directory}: its optimizer files cannot be read as weights ({type(e).__name__}: {e}).") from e


def _consolidate(directory: Path, weights: Weights) -> dict[str, torch.Tensor]:
    kind = KINDS[weights]
    consolidated: dict[str, torch.Tensor] = {}
    filled: dict[str, int] = {}
    # By the manifest: a stray file, say of a save at another world size, would be taken for a part.
    for path in [directory / name for name in read_manifest_files(directory) if name.startswith("optimizer-")]:
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
