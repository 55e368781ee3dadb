"""Implementations of disentangled attention on one problem: ours, and two other packages as their own modules call them."""

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from unittest import mock

import torch

from bench.steps.other_packages import ANCHORS, build_with
from jadeberta.config import ModelConfig
from jadeberta.model.attention import triton as triton_attention
from jadeberta.model.attention.dispatch import attend
from jadeberta.model.attention.relative_positions import largest_bucket
from jadeberta.model.attention.triton import tiles
from jadeberta.model.attention.triton.arguments import KernelArguments

ENTRIES = {
    "disentangled-flash": ("disentangled_flash.training.attention", "training_attention"),
    "flashdeberta, no attention dropout": ("flashdeberta.model", "flash_attention_with_disentangled"),
}
"""Module and function that each package's attention calls with q, k, v and both tables first, by the names of ANCHORS."""


@dataclass(frozen=True)
class Implementation:
    """One row of the table."""

    name: str
    run: Callable[[], torch.Tensor]
    """The forward pass, on tensors that want gradients."""
    leaves: list[torch.Tensor]
    """Those tensors."""
    form: str | None = None
    """Of our kernels."""


def ours(args: KernelArguments, span: int, limit: int) -> list[Implementation]:
    """Torch's memory-efficient kernel with the position scores as its bias, and both forms of our kernels."""
    assert args.position_keys is not None and args.position_queries is not None
    qkv, keys, queries = leaves = [
        t.detach().clone().requires_grad_() for t in (args.qkv, args.position_keys, args.position_queries)
    ]
    largest = largest_bucket(args.shape[1], span, span, limit)

    def memory_efficient() -> torch.Tensor:
        return attend(
            qkv, keys, queries, args.bucket_ids, largest, args.document_ids, args.seed, args.dropout, args.scale, use_triton=False
        )

    def kernels() -> torch.Tensor:
        return triton_attention.attend(
            qkv, keys, queries, args.bucket_ids, args.document_ids, args.seed, args.dropout, args.scale
        )

    compiled = torch.compile(memory_efficient, dynamic=False)
    forms = [Implementation(f"fused, form {form}", kernels, leaves, form) for form in ("tables", "fused")]
    return [Implementation("sdpa + compile", compiled, leaves), Implementation("sdpa", memory_efficient, leaves), *forms]


def theirs(name: str, args: KernelArguments) -> Implementation:
    """Another package's function, with all that its own module gives it beside the tensors.

    Raises:
        ImportError: the package is not installed.
        RuntimeError: its module did not call the function.
    """
    batch, length, heads, size = args.shape
    width = heads * size
    config = ModelConfig(
        hidden_size=width, num_hidden_layers=1, num_attention_heads=heads, attention_head_size=size, intermediate_size=width,
        pooler_hidden_size=width, hidden_dropout_prob=0.0, attention_probs_dropout_prob=args.dropout,
    )  # fmt: skip
    model = build_with(ANCHORS[name], config, args.qkv.device, args.qkv.dtype, seed=1).train()
    module, function = ENTRIES[name]
    taken: list[tuple[tuple[Any, ...], dict[str, Any]]] = []
    entry = getattr(importlib.import_module(module), function)

    def note(*passed: Any, **kwargs: Any) -> torch.Tensor:
        taken.append((passed, kwargs))
        return entry(*passed, **kwargs)

    ids = torch.zeros(batch, length, dtype=torch.int64, device=args.qkv.device)
    with mock.patch(f"{module}.{function}", note):
        model(ids, labels=ids)
    if not taken:
        raise RuntimeError(f"{name}: its module calls no {module}.{function} any more")
    passed, kwargs = taken[0]
    tensors = [i for i, a in enumerate(passed) if isinstance(a, torch.Tensor) and a.requires_grad]
    copies = {i: passed[i].detach().clone().requires_grad_() for i in tensors}
    given = [copies.get(i, a) for i, a in enumerate(passed)]
    return Implementation(name, lambda: entry(*given, **kwargs), list(copies.values()))


def in_form(implementation: Implementation) -> Any:
    """The context in which an implementation must run, forward and backward."""
    return tiles.override({}, forms=(implementation.form, implementation.form) if implementation.form else None)
