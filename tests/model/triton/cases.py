"""What the tests of the fused kernels compute in Triton's interpreter: for a case the plain formula, and what the kernels give."""

import math
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, fields, replace
from typing import Any
from unittest import mock

import torch

from jadeberta.model.attention.dispatch import attend
from jadeberta.model.attention.dropout import DropoutMask
from jadeberta.model.attention.relative_positions import distance_buckets, largest_bucket
from jadeberta.model.attention.triton import tiles
from tests.model.test_attention import plain

warnings.filterwarnings("ignore", category=RuntimeWarning)  # NumPy's, of numbers that wrap around and of rows that are masked


@dataclass(frozen=True)
class Case:
    """One call of the attention."""

    form: tuple[str, str] = ("fused", "fused")
    length: int = 40
    batch: int = 2
    heads: int = 1
    size: int = 32
    span: int = 8
    buckets: int = 8
    terms: tuple[str, ...] = ("c2p", "p2c")
    documents: bool = False
    dropout: float = 0.0
    dtype: torch.dtype = torch.float32
    blocks: tuple[int, int] | None = None
    """block_m and block_n; None: the table's."""
    part: int | None = None
    """Rows of the batch that form "tables" takes at once."""
    some_heads: int | None = None
    """Heads of one row that it takes at once."""
    seed: int = 5

    def __str__(self) -> str:
        """What sets the case apart."""
        return (
            " ".join(f"{f.name}={getattr(self, f.name)}" for f in fields(self) if getattr(self, f.name) != f.default) or "plain"
        )


def inputs_of(case: Case) -> dict[str, Any]:
    """Arguments of `attend` but the seed and the dropout, drawn from the case's numbers."""
    g = torch.Generator().manual_seed(case.length)
    sizes = (case.length, case.span, case.buckets, 64)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=g).to(case.dtype).requires_grad_()

    ids = torch.randint(0, 3, (case.batch, case.length), generator=g).sort(dim=1).values if case.documents else None
    return {
        "qkv": draw(case.batch, case.length, 3, case.heads, case.size),
        "position_keys": draw(2 * case.span, case.heads, case.size) if "c2p" in case.terms else None,
        "position_queries": draw(2 * case.span, case.heads, case.size) if "p2c" in case.terms else None,
        "bucket_ids": distance_buckets(*sizes, "cpu"),
        "largest": largest_bucket(*sizes),
        "document_ids": ids,
        "scale": 1 / math.sqrt(case.size * (1 + len(case.terms))),
    }


def masks(case: Case) -> torch.Tensor:
    """What `jadeberta.model.attention.dropout` keeps, [B, H, S, S]."""
    keep = DropoutMask(case.length, case.dropout, torch.float64, torch.device("cpu"))
    every = [keep.make(case.seed, head).clone() for head in range(case.batch * case.heads)]
    return torch.stack(every).view(case.batch, case.heads, case.length, case.length) != 0


def upstream_of(case: Case) -> torch.Tensor:
    g = torch.Generator().manual_seed(case.length + 1)
    return torch.randn(case.batch, case.length, case.heads, case.size, generator=g).to(case.dtype)


@contextmanager
def settled(case: Case) -> Iterator[None]:
    """Form, tiles and parts as the case has them."""
    names = {f"{form}.{kernel}" for (form, _), kernels in tiles.KERNELS.items() for kernel in kernels}
    of_case = {} if case.blocks is None else {name: tiles.Tile(*case.blocks, 4, 1) for name in names}
    with ExitStack() as stack:
        stack.enter_context(tiles.override(of_case, forms=case.form))
        if case.part is not None:
            stack.enter_context(mock.patch("jadeberta.model.attention.triton.tables.rows_at_once", return_value=case.part))
        if case.some_heads is not None:
            stack.enter_context(mock.patch("jadeberta.model.attention.triton.tables.heads_at_once", return_value=case.some_heads))
        yield


def results(function: Callable[..., torch.Tensor], inputs: dict[str, Any], upstream: torch.Tensor) -> dict[str, torch.Tensor]:
    """Context, and the gradients of what can be learnt."""
    out = function(**inputs)
    names = [name for name in ("qkv", "position_keys", "position_queries") if inputs[name] is not None]
    return {
        "out": out.detach(),
        **dict(zip(names, torch.autograd.grad(out, [inputs[name] for name in names], upstream), strict=True)),
    }


def kernels(case: Case, inputs: dict[str, Any] | None = None, upstream: torch.Tensor | None = None) -> dict[str, torch.Tensor]:
    """What the kernels give."""
    with settled(case):
        return results(
            lambda **given: attend(**given, seed=torch.tensor(case.seed), dropout=case.dropout, use_triton=True),
            inputs_of(case) if inputs is None else inputs,
            upstream_of(case) if upstream is None else upstream,
        )


def formula(case: Case) -> dict[str, torch.Tensor]:
    """What it should be, in fp64."""
    inputs = {
        name: value.detach().double().requires_grad_() if torch.is_tensor(value) and value.requires_grad else value
        for name, value in inputs_of(case).items()
    }
    keep = masks(case) if case.dropout else None
    return results(lambda **given: plain(given, keep, case.dropout), inputs, upstream_of(case).double())


def errors(case: Case) -> dict[str, float]:
    """Largest error of each result, as a share of the largest number in it, or of 1 where all are smaller."""
    expected, found = formula(case), kernels(case)
    assert found.keys() == expected.keys() and all(found[n].dtype == case.dtype for n in found)
    return {n: ((found[n].double() - e).abs().max() / e.abs().max().clamp(min=1)).item() for n, e in expected.items()}


def dropped_alike(case: Case) -> tuple[bool, bool]:
    """Whether forward and backward keep exactly what DropoutMask keeps.

    All scores are zero and the values (backward: the gradients) are rows of the identity, so that the context (the values' gradient) is
    the matrix of kept weights itself.
    """
    case = replace(case, terms=(), documents=False)
    assert case.length <= case.size
    ones = torch.eye(case.length, case.size)[:, None, :].expand(case.batch, -1, case.heads, -1)
    zeros = torch.zeros(case.batch, case.length, case.heads, case.size)
    inputs = {**inputs_of(case), "qkv": torch.stack([zeros, zeros, ones], 2).to(case.dtype).requires_grad_()}
    found = kernels(case, inputs, ones.contiguous().to(case.dtype))
    forward = found["out"].permute(0, 2, 1, 3)[..., : case.length] != 0
    backward = found["qkv"][:, :, 2].permute(0, 2, 3, 1)[:, :, : case.length] != 0
    kept = masks(case)
    return torch.equal(forward, kept), torch.equal(backward, kept)


def same_bits(case: Case, other: Case) -> dict[str, bool]:
    first, second = kernels(case), kernels(other)
    return {name: torch.equal(first[name], second[name]) for name in first}


def largest_difference(case: Case, other: Case) -> float:
    first, second = kernels(case), kernels(other)
    return max((first[name] - second[name]).abs().max().item() for name in first)


def head_by_head_difference(case: Case) -> float:
    """Between the kernels and the CPU's own way, which take the same seed."""
    other = results(
        lambda **given: attend(**given, seed=torch.tensor(case.seed), dropout=case.dropout), inputs_of(case), upstream_of(case)
    )
    found = kernels(case)
    return max((found[name] - other[name]).abs().max().item() for name in found)


def one_document_alike(case: Case) -> bool:
    """Whether documents that are all the same give the bits of none."""
    inputs = inputs_of(case)
    found, other = kernels(case, inputs), kernels(case, {**inputs, "document_ids": torch.ones(case.batch, case.length)})
    return all(torch.equal(found[name], other[name]) for name in found)
