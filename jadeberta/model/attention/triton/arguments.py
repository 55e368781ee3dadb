"""The arguments of the attention kernels, and the properties of the device that they run on."""

import os
from dataclasses import dataclass
from functools import cached_property, lru_cache

import torch

from jadeberta.model.attention.dropout import keep_threshold
from jadeberta.model.attention.inputs import AttentionInputs

LOG2_E = 1.4426950408889634
META_PROCESSORS = 132
"""Multiprocessors of an H100. Stands for the device where kernels are only compiled (tensors on the device meta)."""


@dataclass(frozen=True)
class KernelArguments(AttentionInputs):
    """The arguments of `dispatch.attend` in the memory layout that the kernels read. Construction never waits for a device."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "qkv", self.qkv.contiguous())
        object.__setattr__(self, "seed", self.seed.to(self.qkv.device))
        if self.document_ids is not None:
            object.__setattr__(self, "documents", self.document_ids.to(torch.int32).contiguous())
        for name in ("position_keys", "position_queries"):
            table = getattr(self, name)
            if table is not None and table.stride()[1:] != (table.shape[2], 1):
                object.__setattr__(self, name, table.contiguous())

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """Batch size B, sequence length S, heads H, head size D."""
        batch, length, _, heads, size = self.qkv.shape
        return batch, length, heads, size

    @property
    def exponent_scale(self) -> float:
        """Factor from a raw score to the exponent of its weight in base 2: the softmax uses exp2, which the hardware has."""
        return self.scale * LOG2_E

    @property
    def keep_scale(self) -> float:
        """Factor of the weights that dropout keeps, 1 / (1 - p)."""
        return 1 / (1 - self.dropout)

    @property
    def threshold(self) -> int | None:
        """15-bit threshold of the dropout mask; None removes dropout from the compiled kernel."""
        return keep_threshold(self.dropout) if self.dropout > 0 else None

    @cached_property
    def capability(self) -> tuple[int, int] | None:
        """CUDA compute capability of the tensors' GPU; None on other devices."""
        return capability_of(self.qkv.device)

    @cached_property
    def processors(self) -> int:
        """Multiprocessors of the tensors' device."""
        return processors_of(self.qkv.device)


def interpreting() -> bool:
    """Whether the kernels run in Triton's interpreter on the CPU."""
    return os.environ.get("TRITON_INTERPRET") == "1"


def capability_of(device: torch.device) -> tuple[int, int] | None:
    """CUDA compute capability of a GPU; None for other devices."""
    return _properties(device.index)[0] if device.type == "cuda" else None


def processors_of(device: torch.device) -> int:
    """The number of multiprocessors of a GPU; 1 for the CPU."""
    if device.type == "cuda":
        return _properties(device.index)[1]
    return META_PROCESSORS if device.type == "meta" else 1


@lru_cache
def _properties(index: int | None) -> tuple[tuple[int, int], int]:
    properties = torch.cuda.get_device_properties(index)
    return (properties.major, properties.minor), properties.multi_processor_count
