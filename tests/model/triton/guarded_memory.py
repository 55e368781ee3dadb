"""Memory with guards around it, for kernels that write and read through bare pointers."""

from collections.abc import Iterator
from contextlib import contextmanager
from unittest import mock

import torch

GUARD = 4096
"""Bytes before and behind each tensor. All bits are set: a NaN to whoever reads them."""


class Guards:
    """Hands out tensors inside larger buffers, and can tell whether anything around them was written."""

    def __init__(self) -> None:
        self._buffers: list[torch.Tensor] = []

    def make(self, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
        """A contiguous tensor that holds NaNs (integers: -1) until it is written."""
        size = torch.Size(shape).numel() * dtype.itemsize
        padded = -(-size // 16) * 16
        buffer = torch.full((2 * GUARD + padded,), 0xFF, dtype=torch.uint8)
        self._buffers.append(buffer[:GUARD])
        self._buffers.append(buffer[GUARD + size :])
        return buffer[GUARD : GUARD + size].view(dtype).view(shape)

    def copy(self, x: torch.Tensor) -> torch.Tensor:
        return self.make(tuple(x.shape), x.dtype).copy_(x)

    def whole(self) -> bool:
        """Whether every guard is as it was."""
        return all((guard == 0xFF).all() for guard in self._buffers)

    def __len__(self) -> int:
        return len(self._buffers) // 2


@contextmanager
def guarded() -> Iterator[Guards]:
    """Everything that is allocated without values, or with zeros, comes out of guarded memory."""
    guards = Guards()

    plain = torch.Tensor.new_empty

    def new_empty(self: torch.Tensor, *shape, dtype: torch.dtype | None = None, device: str | None = None) -> torch.Tensor:
        if device is not None:  # the interpreter's own, for its copy of a whole storage, guards and all
            return plain(self, *shape, device=device)
        return guards.make(
            tuple(torch.Size(*shape) if len(shape) == 1 and not isinstance(shape[0], int) else shape), dtype or self.dtype
        )

    def new_zeros(self: torch.Tensor, *shape, dtype: torch.dtype | None = None) -> torch.Tensor:
        return new_empty(self, *shape, dtype=dtype).zero_()

    def empty_like(x: torch.Tensor) -> torch.Tensor:
        return guards.make(tuple(x.shape), x.dtype)

    with (
        mock.patch.object(torch.Tensor, "new_empty", new_empty),
        mock.patch.object(torch.Tensor, "new_zeros", new_zeros),
        mock.patch.object(torch, "empty_like", empty_like),
    ):
        yield guards
