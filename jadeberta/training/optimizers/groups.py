"""Which rule updates which parameter: groups of any module tree, for torch's optimizers."""

from typing import Any

import torch


def decay_groups(model: torch.nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Parameters with and without weight decay; biases and LayerNorm weights have none, as in transformers' Trainer."""
    norms = {id(p) for m in model.modules() if isinstance(m, torch.nn.LayerNorm) for p in m.parameters()}
    named = [(n, p) for n, p in model.named_parameters() if p.requires_grad]
    plain = [p for n, p in named if id(p) in norms or n.endswith("bias")]
    decayed = [p for n, p in named if not (id(p) in norms or n.endswith("bias"))]
    return [{"params": decayed, "weight_decay": weight_decay}, {"params": plain, "weight_decay": 0.0}]


def hidden_matrices(model: torch.nn.Module) -> list[str]:
    """Names of the hidden matrices: weights of linear maps in a stack of layers (a ModuleList), shared with no embedding.

    Embeddings, the head, the convolution, biases and LayerNorm weights are none. Of two models in one tree, both are seen.
    """
    embeddings = {id(p) for m in model.modules() if isinstance(m, torch.nn.Embedding) for p in m.parameters()}
    matrices = {
        id(m.weight)
        for stack in model.modules()
        if isinstance(stack, torch.nn.ModuleList)
        for m in stack.modules()
        if isinstance(m, torch.nn.Linear)
    }
    return [n for n, p in model.named_parameters() if p.requires_grad and id(p) in matrices - embeddings]


def matrix_groups(model: torch.nn.Module, weight_decay: float, matrix: dict[str, Any]) -> list[dict[str, Any]]:
    """The groups of `decay_groups` without the hidden matrices, which are a group of their own, the first.

    Args:
        model: any module tree.
        weight_decay: of the other parameters.
        matrix: settings of the matrices' group.
    """
    names = set(hidden_matrices(model))
    hidden = [p for n, p in model.named_parameters() if n in names]
    ids = {id(p) for p in hidden}
    others = [
        {**group, "params": [p for p in group["params"] if id(p) not in ids]} for group in decay_groups(model, weight_decay)
    ]
    return [{"params": hidden, **matrix}, *(group for group in others if group["params"])]
