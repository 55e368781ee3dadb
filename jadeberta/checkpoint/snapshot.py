"""A rank's part of a checkpoint as it was at one step: files in the safetensors format, laid out in memory that another process can read.

The memory is taken once and used by every save; filling it is the only thing that training waits for. Format: 8 bytes length, a JSON
header, then the tensors without gaps (https://github.com/huggingface/safetensors, "Format").
"""

import mmap
import os
from dataclasses import dataclass

import orjson
import torch

from jadeberta.errors import CheckpointError
from jadeberta.utils.memory import available_memory

DTYPE_NAMES = {torch.float32: "F32", torch.bfloat16: "BF16", torch.float16: "F16", torch.int64: "I64"}
PAGE = mmap.PAGESIZE
ALIGNMENT = 64
Tensors = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Image:
    """Where a file lies in the snapshot's memory."""

    name: str
    offset: int
    size: int


class Snapshot:
    """Memory for some files of tensors; the shapes stay the same from save to save.

    Attributes:
        descriptor: of the memory (memfd), for the process that writes it.
        size: bytes.
        images: the files in it.
    """

    def __init__(self, files: dict[str, tuple[Tensors, dict[str, str]]], pin: bool) -> None:
        """Takes the memory and writes the headers.

        Args:
            files: by name, tensors whose shapes and dtypes count, and the header's metadata.
            pin: lock the pages for copies from a GPU.

        Raises:
            CheckpointError: there is not enough memory.
        """
        self.images: list[Image] = []
        self._places: dict[str, dict[str, tuple[int, int]]] = {}
        headers, end = [], 0
        for name, (tensors, metadata) in files.items():
            header, places, size = lay_out(tensors, metadata)
            self._places[name] = {key: (end + start, end + stop) for key, (start, stop) in places.items()}
            self.images.append(Image(name, end, size))
            headers.append((end, header))
            end += -(-size // PAGE) * PAGE
        self.size = max(end, PAGE)
        if self.size > (free := available_memory()):
            raise CheckpointError(
                f"{self.size / 2**20:,.0f} MiB of host memory are needed to copy the state to when it is saved, "
                f"{free / 2**20:,.0f} MiB are free. Give the job more memory, or use more ranks."
            )
        self.descriptor = os.memfd_create("jadeberta-snapshot")
        try:
            # Taken now and whole: a node that is short of memory says so at the first save, not at a later one.
            os.posix_fallocate(self.descriptor, 0, self.size)
            self._map = mmap.mmap(self.descriptor, self.size, flags=mmap.MAP_SHARED | mmap.MAP_POPULATE)
        except OSError as e:
            os.close(self.descriptor)
            raise CheckpointError(f"{self.size / 2**20:,.0f} MiB of host memory for a snapshot are not to be had ({e}).") from e
        self._bytes = torch.frombuffer(self._map, dtype=torch.uint8)
        for offset, header in headers:
            self._map[offset : offset + len(header)] = header
        if pin:
            _pin(self._bytes)

    def fill(self, files: dict[str, Tensors]) -> None:
        """Copies tensors, from any device, to their places; returns when all have arrived.

        Raises:
            CheckpointError: a tensor is missing, new, or of another size than the one the place was made for.
        """
        on_gpu = False
        for name, tensors in files.items():
            places = self._places[name]
            if tensors.keys() != places.keys():
                raise CheckpointError(f"{name}: the state holds other tensors than at the first save.")
            for key, tensor in tensors.items():
                start, stop = places[key]
                place = self._bytes[start:stop].view(tensor.dtype)
                place.copy_(tensor.detach().reshape(-1), non_blocking=True)
                on_gpu |= tensor.is_cuda
        if on_gpu:
            torch.cuda.synchronize()

    def close(self) -> None:
        """Gives the memory back, once the writer has done so too."""
        os.close(self.descriptor)


def lay_out(tensors: Tensors, metadata: dict[str, str]) -> tuple[bytes, dict[str, tuple[int, int]], int]:
    """Header of a safetensors file, the byte range of each tensor in the file, and the file's size.

    Larger elements come first, so that every tensor lies at a multiple of its element's size.
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
