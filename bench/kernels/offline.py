"""Compiles whatever a function would launch, for a GPU that is not there.

A stand-in for Triton's driver names the GPU, and every launch stops after compilation. The function runs on meta tensors, so that each
kernel is compiled with the very types, constants and alignments of its launch. Knows nothing of the kernels.
"""

import re
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from unittest import mock

import triton
from triton.backends.compiler import GPUTarget
from triton.runtime.jit import JITFunction


@dataclass(frozen=True)
class Compiled:
    """One kernel for one GPU."""

    name: str
    """Of its function."""
    programs: int
    """The launch's grid, all together."""
    warps: int
    registers: int
    """Of each thread."""
    stack_bytes: int
    """Of each thread: where the compiler keeps what the registers do not hold."""
    shared_bytes: int
    """Of each program."""
    cubin: bytes


class _Driver:
    """As much of a driver as a compilation asks for."""

    def __init__(self, capability: tuple[int, int]) -> None:
        self._target = GPUTarget("cuda", 10 * capability[0] + capability[1], 32)

    def get_current_target(self) -> GPUTarget:
        return self._target

    def get_current_device(self) -> str:
        return f"sm_{self._target.arch}"  # kernels are remembered by device

    def get_current_stream(self, device: str) -> int:
        return 0


def compile_launches(capability: tuple[int, int], call: Callable[[], Any], only: str | None = None) -> list[Compiled]:
    """What `call` launches, in order, compiled for a GPU of that compute capability; `only` the kernel of that name."""
    found: list[Compiled] = []
    original = JITFunction.run

    def compile_only(function: JITFunction, *args: Any, grid: Any, warmup: bool, **options: Any) -> None:
        if only not in (None, function.__name__):
            return
        kernel = original(function, *args, grid=grid, warmup=True, **options)
        sizes = grid(options) if callable(grid) else grid
        programs = 1
        for size in sizes:
            programs *= size
        cubin = kernel.asm["cubin"]
        registers, stack = resources(cubin)
        found.append(
            Compiled(function.__name__, programs, kernel.metadata.num_warps, registers, stack, kernel.metadata.shared, cubin)
        )

    with _driver(capability), mock.patch.object(JITFunction, "run", compile_only):
        call()
    return found


@contextmanager
def _driver(capability: tuple[int, int]) -> Iterator[None]:
    config = triton.runtime.driver
    before = config._active
    config.set_active(_Driver(capability))  # type: ignore[arg-type]
    try:
        yield
    finally:
        config._active = before


def resources(cubin: bytes) -> tuple[int, int]:
    """Registers and bytes of stack of each thread, as the file itself says."""
    text = _tool(triton.knobs.nvidia.cuobjdump.path, cubin, "--dump-resource-usage")
    found = re.search(r"REG:(\d+) STACK:(\d+)", text)
    if found is None:
        raise ValueError(f"cuobjdump says nothing of registers: {text.strip()!r}")
    return int(found[1]), int(found[2])


def disassemble(cubin: bytes) -> str:
    """The machine code, as nvdisasm prints it, without what only debuggers want."""
    return _tool(triton.knobs.nvidia.nvdisasm.path, cubin, "--print-code", "--no-dataflow")


def _tool(path: str, cubin: bytes, *options: str) -> str:
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        return subprocess.run([path, *options, file.name], capture_output=True, text=True, check=True).stdout
