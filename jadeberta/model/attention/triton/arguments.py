"""What every fused kernel is called with, and what is asked of the device it runs on."""

import os
from dataclasses import dataclass
from functools import cached_property, lru_cache

import torch

from jadeberta.model.attention.dropout import keep_threshold

LOG2_E = 1.4426950408889634
META_PROCESSORS = 132
"""Of an H100: where kernels are only compiled."""


@dataclass(frozen=True)
class Call:
    """The arguments of `disentangled.attend`, laid out as the kernels read them; never waits for a device."""

    qkv: torch.Tensor  # [B, S, 3, H, D]
    position_keys: torch.Tensor | None  # [rows, H, D]
    position_queries: torch.Tensor | None  # [rows, H, D]
    slots: torch.Tensor  # int64 [2 * S - 1]
    documents: torch.Tensor | None  # [B, S]
    seed: torch.Tensor  # int64 []
    dropout: float
    scale: float

    def __post_init__(self) -> None:
        object.__setattr__(self, "qkv", self.qkv.contiguous())
        object.__setattr__(self, "seed", self.seed.to(self.qkv.device))
        if self.documents is not None:
            object.__setattr__(self, "documents", self.documents.to(torch.int32).contiguous())
        for name in ("position_keys", "position_queries"):
            table = getattr(self, name)
            if table is not None and table.stride()[1:] != (table.shape[2], 1):
                object.__setattr__(self, name, table.contiguous())

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """Rows, length, heads, head size."""
        batch, length, _, heads, size = self.qkv.shape
        return batch, length, heads, size

    @property
    def exponent_scale(self) -> float:
        """Takes a score to the exponent of two that its weight is."""
        return self.scale * LOG2_E

    @property
    def keep_scale(self) -> float:
        return 1 / (1 - self.dropout)

    @property
    def threshold(self) -> int | None:
        """Of the keep mask; None compiles dropout out."""
        return keep_threshold(self.dropout) if self.dropout > 0 else None

    @cached_property
    def capability(self) -> tuple[int, int] | None:
        return capability_of(self.qkv.device)

    @cached_property
    def processors(self) -> int:
        return processors_of(self.qkv.device)


def interpreting() -> bool:
    """Whether Triton's kernels run in its interpreter, on the CPU."""
    return os.environ.get("TRITON_INTERPRET") == "1"


def capability_of(device: torch.device) -> tuple[int, int] | None:
    """Compute capability of a GPU; None for what is none."""
    return _properties(device.index)[0] if device.type == "cuda" else None


def processors_of(device: torch.device) -> int:
    """How many multiprocessors a GPU has."""
    if device.type == "cuda":
        return _properties(device.index)[1]
    return META_PROCESSORS if device.type == "meta" else 1


@lru_cache
def _properties(index: int | None) -> tuple[tuple[int, int], int]:
    properties = torch.cuda.get_device_properties(index)
    return (properties.major, properties.minor), properties.multi_processor_count
