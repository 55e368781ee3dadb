"""Staging memory: a rank's part of a checkpoint, copied at one step and laid out as safetensors files for the writer process to read.

The memory is taken once and used by every save; training waits only while it is filled. Format of a file: 8 bytes length, a JSON
header, then the tensors without gaps (https://github.com/huggingface/safetensors, "Format").
"""

import mmap
import os

import orjson
import torch

from jadeberta.checkpoint.writer_messages import MemoryFile
from jadeberta.errors import CheckpointError
from jadeberta.utils.memory import available_memory

DTYPE_NAMES = {torch.float32: "F32", torch.bfloat16: "BF16", torch.float16: "F16", torch.int64: "I64"}
PAGE = mmap.PAGESIZE
ALIGNMENT = 64
Tensors = dict[str, torch.Tensor]


class Snapshot:
    """Memory for some files of tensors; the shapes stay the same from save to save.

    Attributes:
        descriptor: file descriptor of the memory (memfd), which the writer process inherits.
        size: bytes.
        files: where each file lies in it.
        content: name and elements of each tensor of the last fill, in the memory itself.
    """

    def __init__(
        self, files: dict[str, tuple[Tensors, dict[str, str]]], pin: bool, fixed: dict[str, bytes] | None = None
    ) -> None:
        """Takes the memory and writes the headers and the fixed files.

        Args:
            files: per file name, tensors whose shapes and dtypes count, and the metadata for the header.
            pin: lock the pages, so that copies from a GPU are fast and can overlap.
            fixed: content of files that are the same in every save, by name.

        Raises:
            CheckpointError: there is not enough memory.
        """
        self.files: list[MemoryFile] = []
        self._ranges: dict[str, dict[str, tuple[int, int]]] = {}
        self.content: list[tuple[str, torch.Tensor]] = []
        headers, end = [], 0
        for name, (tensors, metadata) in files.items():
            header, ranges, size = lay_out(tensors, metadata)
            self._ranges[name] = {key: (end + start, end + stop) for key, (start, stop) in ranges.items()}
            self.files.append(MemoryFile(name, end, size))
            headers.append((end, header))
            end += -(-size // PAGE) * PAGE
        for name, content in (fixed or {}).items():
            self.files.append(MemoryFile(name, end, len(content)))
            headers.append((end, content))
            end += -(-len(content) // PAGE) * PAGE
        self.size = max(end, PAGE)
        if self.size > (free := available_memory()):
            raise CheckpointError(
                f"{self.size / 2**20:,.0f} MiB of host memory are needed to copy the state to when it is saved, "
                f"{free / 2**20:,.0f} MiB are free. Give the job more memory, or use more ranks."
            )
        self.descriptor = os.memfd_create("jadeberta-snapshot")
        try:
            # All of it now: a node that is short of memory fails before the first step, not at a later save.
            os.posix_fallocate(self.descriptor, 0, self.size)
            self._map = mmap.mmap(self.descriptor, self.size, flags=mmap.MAP_SHARED | mmap.MAP_POPULATE)
        except OSError as e:
            os.close(self.descriptor)
            raise CheckpointError(f"{self.size / 2**20:,.0f} MiB of host memory for a snapshot cannot be allocated ({e}).") from e
        self._bytes = torch.frombuffer(self._map, dtype=torch.uint8)
        for offset, header in headers:
            self._map[offset : offset + len(header)] = header
        if pin:
            _pin(self._bytes)

    def fill(self, files: dict[str, Tensors]) -> None:
        """Copies tensors from any device into the memory; returns when all have arrived.

        Raises:
            CheckpointError: a tensor is missing or new since the memory was taken.
        """
        on_gpu, self.content = False, []
        for name, tensors in files.items():
            ranges = self._ranges[name]
            if tensors.keys() != ranges.keys():
                raise CheckpointError(f"{name}: the state holds other tensors than at the first save.")
            for key, tensor in tensors.items():
                start, stop = ranges[key]
                target = self._bytes[start:stop].view(tensor.dtype)
                target.copy_(tensor.detach().reshape(-1), non_blocking=True)
                self.content.append((key, target))
                on_gpu |= tensor.is_cuda
        if on_gpu:
            # The copies are queued, not done; the next training step would change the weights under them.
            torch.cuda.synchronize()

    def close(self) -> None:
        """Closes the descriptor; the memory is freed once the writer process has ended too."""
        os.close(self.descriptor)


def find_not_finite(snapshot: Snapshot) -> str | None:
    """Returns why a snapshot is no state to save, as a tensor in it holds NaN or infinity; None where it is one. Never raises.

    By the tensors' largest elements, which one pass over the memory finds and which are infinite or NaN where any element is.
    """
    floats = [(name, t) for name, t in snapshot.content if t.is_floating_point() and t.numel()]
    try:
        largest = torch._foreach_norm([t for _, t in floats], float("inf")) if floats else ()
        spoilt = next((name for (name, _), norm in zip(floats, largest, strict=True) if not bool(torch.isfinite(norm))), None)
    except (RuntimeError, MemoryError) as e:
        # The answer of one rank to all: an exception here would leave the others waiting.
        return f"its numbers cannot be looked at ({next(iter(str(e).splitlines()), type(e).__name__)})"
    return f"{spoilt} holds NaN or infinity; such a state is no checkpoint" if spoilt else None


def lay_out(tensors: Tensors, metadata: dict[str, str]) -> tuple[bytes, dict[str, tuple[int, int]], int]:
    """Lays out a safetensors file; returns its header, the byte range of each tensor in it, and its size.

    Tensors with larger elements come first, so that every tensor starts at a multiple of its element size.
    """
    entries: dict[str, object] = {"__metadata__": metadata} if metadata else {}
    ranges, end = {}, 0
    for name, tensor in sorted(tensors.items(), key=lambda item: (-item[1].element_size(), item[0])):
        size = tensor.numel() * tensor.element_size()
        entries[name] = {"dtype": DTYPE_NAMES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [end, end + size]}
        ranges[name] = (end, end + size)
        end += size
    header = orjson.dumps(entries)
    header += b" " * (-(8 + len(header)) % ALIGNMENT)
    header = len(header).to_bytes(8, "little") + header
    return header, {name: (len(header) + a, len(header) + b) for name, (a, b) in ranges.items()}, len(header) + end


def _pin(memory: torch.Tensor) -> None:
    status = torch.cuda.cudart().cudaHostRegister(memory.data_ptr(), memory.numel(), 0)
    if int(status) != 0:
        raise CheckpointError(
            f"{memory.numel() / 2**20:,.0f} MiB of host memory cannot be pinned for the GPU (CUDA error {int(status)}); "
            "raise the limit of locked memory (ulimit -l)."
        )
