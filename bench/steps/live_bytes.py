"""Counts the bytes of tensors that are alive at once: what a computation takes, without asking an allocator or a clock."""

import weakref
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class Peak:
    """The most bytes of storages that were alive at once, of those that were made while counting."""

    def __init__(self) -> None:
        self.bytes = 0
        self._alive: dict[int, int] = {}
        self._now = 0

    def note(self, tensor: torch.Tensor) -> None:
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self._alive:
            return
        self._alive[key] = storage.nbytes()
        self._now += storage.nbytes()
        self.bytes = max(self.bytes, self._now)
        weakref.finalize(storage, self._forget, key)

    def _forget(self, key: int) -> None:
        self._now -= self._alive.pop(key, 0)


class _Counting(TorchDispatchMode):
    def __init__(self, peak: Peak) -> None:
        super().__init__()
        self._peak = peak

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, torch.Tensor):
                self._peak.note(tensor)
        return out


@contextmanager
def peak_bytes() -> Iterator[Peak]:
    """Counts what the body allocates, also inside of operators that are written in Python."""
    peak = Peak()
    with _Counting(peak):
        yield peak
