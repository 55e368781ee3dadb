"""Ways to compute disentangled attention on one problem: ours, and two other packages as their own modules call them."""

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from unittest import mock

import torch

from bench.steps.other_packages import ANCHORS, build_with
from jadeberta.config import ModelConfig
from jadeberta.model.attention import triton as fused
from jadeberta.model.attention.relative_positions import longest_run
from jadeberta.model.attention.sdpa import Attention as SdpaAttention
from jadeberta.model.attention.triton import tiles
from jadeberta.model.attention.triton.arguments import Call

ENTRIES = {
    "disentangled-flash": ("disentangled_flash.training.attention", "training_attention"),
    "flashdeberta, no attention dropout": ("flashdeberta.model", "flash_attention_with_disentangled"),
}
"""Module and function that each package's attention calls with q, k, v and both tables first, by the names of ANCHORS."""


@dataclass(frozen=True)
class Way:
    """One row of the table."""

    name: str
    run: Callable[[], torch.Tensor]
    """The forward pass, on tensors that want gradients."""
    leaves: list[torch.Tensor]
    """Those tensors."""
    form: str | None = None
    """Of our kernels."""


def ours(call: Call, span: int, limit: int) -> list[Way]:
    """Torch's memory-efficient kernel with the position scores as its bias, and both forms of our kernels."""
    assert call.position_keys is not None and call.position_queries is not None
    qkv, keys, queries = leaves = [
        t.detach().clone().requires_grad_() for t in (call.qkv, call.position_keys, call.position_queries)
    ]
    longest = longest_run(call.shape[1], span, span, limit)

    def memory_efficient() -> torch.Tensor:
        return SdpaAttention.apply(qkv, keys, queries, call.slots, longest, call.documents, call.dropout, call.scale)

    def kernels() -> torch.Tensor:
        return fused.attend(qkv, keys, queries, call.slots, call.documents, call.seed, call.dropout, call.scale)

    compiled = torch.compile(memory_efficient, dynamic=False)
    forms = [Way(f"fused, form {form}", kernels, leaves, form) for form in ("tables", "fused")]
    return [Way("sdpa + compile", compiled, leaves), Way("sdpa", memory_efficient, leaves), *forms]


def theirs(name: str, call: Call) -> Way:
    """Another package's function, with all that its own module gives it beside the tensors.

    Raises:
        ImportError: the package is not installed.
        RuntimeError: its module did not call the function.
    """
    batch, length, heads, size = call.shape
    width = heads * size
    config = ModelConfig(
        hidden_size=width, num_hidden_layers=1, num_attention_heads=heads, attention_head_size=size, intermediate_size=width,
        pooler_hidden_size=width, hidden_dropout_prob=0.0, attention_probs_dropout_prob=call.dropout,
    )  # fmt: skip
    model = build_with(ANCHORS[name], config, call.qkv.device, call.qkv.dtype, seed=1).train()
    module, function = ENTRIES[name]
    taken: list[tuple[tuple[Any, ...], dict[str, Any]]] = []
    entry = getattr(importlib.import_module(module), function)

    def note(*args: Any, **kwargs: Any) -> torch.Tensor:
        taken.append((args, kwargs))
        return entry(*args, **kwargs)

    ids = torch.zeros(batch, length, dtype=torch.int64, device=call.qkv.device)
    with mock.patch(f"{module}.{function}", note):
        model(ids, labels=ids)
    if not taken:
        raise RuntimeError(f"{name}: its module calls no {module}.{function} any more")
    args, kwargs = taken[0]
    tensors = [i for i, a in enumerate(args) if isinstance(a, torch.Tensor) and a.requires_grad]
    copies = {i: args[i].detach().clone().requires_grad_() for i in tensors}
    given = [copies.get(i, a) for i, a in enumerate(args)]
    return Way(name, lambda: entry(*given, **kwargs), list(copies.values()))


def in_form(way: Way) -> Any:
    """The context in which a way must run, forward and backward."""
    return tiles.using({}, forms=(way.form, way.form) if way.form else None)
