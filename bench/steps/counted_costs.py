"""Bytes, kernels and kept activations of one training micro-step, counted on tensors without content: no GPU is needed.

Hugging Face's eager model is counted kernel by kernel as torch calls them. Ours is counted as Inductor schedules it, on the way that a
GPU takes (position scores as the bias of the memory-efficient kernel): kernels after fusion, and what each reads and writes.
Both counts take every tensor as read from and written to memory, and no kernel as reading anything twice.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from typing import Any
from unittest import mock

import torch
from torch._guards import detect_fake_mode
from torch._inductor.compile_fx import compile_fx, record_original_output_strides
from torch._inductor.debug import DebugContext
from torch._inductor.graph import GraphLowering
from torch._inductor.virtualized import V
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from jadeberta.config import ModelConfig
from jadeberta.model import build
from jadeberta.model.attention import dispatch, relative_positions, sdpa
from jadeberta.model.attention import triton as triton_attention
from jadeberta.model.recompute import recomputing_cheaply

VIEWS = {
    "view", "_unsafe_view", "expand", "permute", "transpose", "t", "slice", "select", "unsqueeze", "squeeze", "as_strided", "detach",
    "alias", "split", "split_with_sizes", "unbind", "_reshape_alias", "empty", "empty_like", "new_empty", "unflatten", "lift_fresh",
    "narrow", "empty_permuted",
}  # fmt: skip
"""Operators that start no kernel."""
FILLS = {
    "zero",
    "zeros",
    "zeros_like",
    "new_zeros",
    "fill",
    "full",
    "full_like",
    "ones",
    "ones_like",
    "new_full",
    "arange",
    "bernoulli",
}
"""Operators that only write."""


@dataclass
class Account:
    """Of one micro-step; bytes and kept bytes for each sequence, kernels for the whole micro-batch."""

    bytes_moved: float
    kernels: float
    kept_bytes: float
    """Activations from forward to backward."""

    def scaled(self, other: "Account", layers: int) -> "Account":
        """Of `layers` layers, where this is of one layer and `other` of two: a layer costs what the second one added."""
        one, two = ([getattr(a, f.name) for f in fields(Account)] for a in (self, other))
        return Account(*(a + (layers - 1) * (b - a) for a, b in zip(one, two, strict=True)))


def account(attention: str, config: ModelConfig, batch: int, masked_share: float | None, recompute: str = "none") -> Account:
    """The account of a model in bf16 with dropout.

    Args:
        attention: eager, Hugging Face's own, uncompiled; or sdpa or fused, ours, compiled, as on a GPU. Our kernels, and the blocks of long
            rows, count as one each way, and what they write for themselves and read again is left out.
        config: the model, of any number of layers.
        batch: sequences.
        masked_share: share of the positions that go through the head; None: all.
        recompute: none; or cheap, for sdpa.
    """
    counted = [_count(attention, config, layers, batch, masked_share, recompute == "cheap") for layers in (1, 2)]
    return counted[0].scaled(counted[1], config.num_hidden_layers)


def _count(attention: str, config: ModelConfig, layers: int, batch: int, masked_share: float | None, cheap: bool) -> Account:
    length = config.max_position_embeddings
    config = ModelConfig(**{**vars(config), "num_hidden_layers": layers})
    span, limit = config.position_buckets, config.max_position_embeddings
    # Made before, with content: what a mode without content makes must not stay in their cache.
    (
        relative_positions.distance_buckets(length, span, span, limit, "cpu"),
        relative_positions.largest_bucket(length, span, span, limit),
    )
    # Under a mode without content eager operators would be counted with the parts that they are described by.
    with torch.device("meta") if attention == "eager" else FakeTensorMode(allow_non_fake_inputs=True):
        torch.set_default_dtype(torch.bfloat16)
        try:
            with mock.patch("jadeberta.model.deberta.require_triton"):  # what a GPU would start is counted without one
                model = build(config.hugging_face(), attention).train()
        finally:
            torch.set_default_dtype(torch.float32)
        ids = torch.zeros(batch, length, dtype=torch.int64)
        if masked_share is None:
            inputs: dict[str, Any] = {"labels": ids}
        else:
            index = torch.zeros(round(batch * length * masked_share), dtype=torch.int64)
            inputs = {"labels": index, "masked_index": index, "z_loss": 0.0}
        result = _count_eager(model, ids, inputs) if attention == "eager" else _count_compiled(model, ids, inputs, cheap)
    return Account(result.bytes_moved / batch, result.kernels, result.kept_bytes / batch)


def _count_eager(model: torch.nn.Module, ids: torch.Tensor, inputs: dict[str, Any]) -> Account:
    kernels = _Kernels()
    with kernels, kept_bytes(model) as kept:
        loss = model(ids, attention_mask=torch.ones_like(ids), **inputs).loss
    with kernels:
        loss.backward()
    return Account(sum(kernels.moved), len(kernels.moved), sum(kept.values()))


class _Kernels(TorchDispatchMode):
    """Collects the bytes of every operator that starts a kernel."""

    def __init__(self) -> None:
        super().__init__()
        self.moved: list[int] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        name = func._schema.name.split("::")[1].rstrip("_")
        if name not in VIEWS:
            read, written = (sum(map(_touched, tree_leaves(part))) for part in ((args, kwargs), out))
            if name in FILLS:
                read = 0
            elif name == "copy":
                written = 0  # its target is among the arguments
            elif name == "embedding":
                read = written  # of the table only the rows that are asked for
            self.moved.append(read + written)
        return out


def _touched(x: Any) -> int:
    """Bytes of a tensor; a dimension of stride 0 is not read again."""
    if not isinstance(x, torch.Tensor):
        return 0
    return x.element_size() * math.prod(n for n, stride in zip(x.shape, x.stride(), strict=True) if stride)


def _count_compiled(model: torch.nn.Module, ids: torch.Tensor, inputs: dict[str, Any], cheap: bool) -> Account:
    moved: list[int] = []

    def schedule(graph_module: torch.fx.GraphModule, examples: Any, **_: Any) -> Any:
        """In the place of Inductor's code generation: what it would start, and no code."""
        record_original_output_strides(graph_module)
        graph = GraphLowering(graph_module)
        with V.set_graph_handler(graph), V.set_fake_mode(detect_fake_mode(examples)), DebugContext():
            graph.run(*examples)
            graph._update_scheduler()
            moved.extend(node.get_read_write_buffers_sizes() for node in graph.scheduler.nodes if _starts_kernel(node))
        run = graph_module.forward

        def boxed(arguments: list) -> Any:
            return run(*arguments)

        boxed._boxed_call = True  # type: ignore[attr-defined]
        return boxed

    def attend_on_gpu(
        qkv: Any,
        keys: Any,
        queries: Any,
        bucket_ids: Any,
        largest: int,
        documents: Any,
        seed: Any,
        dropout: float,
        scale: float,
        use_triton: bool,
    ) -> Any:
        if use_triton:
            return triton_attention._attention(qkv, keys, queries, bucket_ids, documents, seed, dropout, scale)[0]
        if dispatch.takes_blocks(qkv.shape[1], largest, qkv.dtype, on_gpu=True):
            return dispatch._blockwise(qkv, keys, queries, bucket_ids, documents, seed, dropout, scale)
        return sdpa.SdpaFunction.apply(qkv, keys, queries, bucket_ids, largest, documents, dropout, scale)

    torch._dynamo.reset()
    with mock.patch("jadeberta.model.attention.module.attend", attend_on_gpu):
        run = torch.compile(
            model, backend=lambda g, examples: compile_fx(g, examples, inner_compile=schedule), fullgraph=True, dynamic=False
        )
        with kept_bytes(model) as kept:
            loss = (recomputing_cheaply(run) if cheap else run)(ids, **inputs).loss
        loss.backward()
    torch._dynamo.reset()
    return Account(sum(moved), len(moved), sum(kept.values()))


def _starts_kernel(node: Any) -> bool:
    """Not a place in another's memory, and not one of several results of a kernel that counts already."""
    return type(node).__name__ != "NopKernelSchedulerNode" and type(node.node).__name__ != "MultiOutput"


@contextmanager
def kept_bytes(model: torch.nn.Module) -> Iterator[dict[int, int]]:
    """Collects the storages that autograd keeps, by number, in bytes; parameters left out."""
    own = {p.untyped_storage()._cdata for p in model.parameters()}
    kept: dict[int, int] = {}
    alive = []  # a storage that is freed could give its number to another

    def note(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in own:
            kept[storage._cdata] = storage.nbytes()
            alive.append(storage)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        yield kept
