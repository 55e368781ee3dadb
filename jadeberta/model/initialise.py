"""Changes to a freshly initialised model, before its first step."""

import math
from typing import Any

import torch


@torch.no_grad()
def scale_residual_outputs(model: torch.nn.Module) -> int:
    """Multiplies what writes into the residual stream by 1 / sqrt(2 layers), in place; returns the number of matrices.

    These are the output projections of attention and feed-forward of each layer, as GPT-2 initialises them (Radford et al.: Language
    models are unsupervised multitask learners, 2019): the sum over the layers then has the size of one. No random number is drawn.

    Args:
        model: any tree with stacks of transformers' DeBERTa layers; each stack counts its own layers.
    """
    count = 0
    for stack in (m for m in model.modules() if isinstance(m, torch.nn.ModuleList)):
        layers: list[Any] = [layer for layer in stack if hasattr(layer, "attention")]
        outputs = [output.dense for layer in layers for output in (layer.attention.output, layer.output)]
        for dense in outputs:
            dense.weight.mul_(1 / math.sqrt(len(outputs)))
        count += len(outputs)
    return count
