"""How long a loop's instructions keep one multiprocessor busy at the least, pipe by pipe: counted figures over the chip's rates.

Rates: arithmetic throughput table of NVIDIA's CUDA C++ Programming Guide for compute capability 8.0 and 9.0; which instruction
goes through which pipe as Nsight Compute's documentation has it. Conflicts between banks, accesses that touch several lines and misses of
caches are not in it, so that a real kernel is slower.
"""

from dataclasses import dataclass

from bench.kernels.sass import Instruction, matmul_work

ISSUES = 4
"""Instructions that a multiprocessor starts in a cycle, one a scheduler."""
LONE_WARP = 2.5
"""Assumed cycles between two instructions of a warp that has its scheduler for itself."""
BARRIER = 40
"""Assumed cycles that a program stands at a barrier, or at the arrival of what it reads after one."""
LOAD = 400
"""Assumed cycles that a program waits for memory once in a trip that reads it without having asked for it a trip earlier."""


@dataclass(frozen=True)
class Chip:
    """One multiprocessor, and how many there are."""

    capability: tuple[int, int]
    name: str
    processors: int
    hertz: float
    shared_bytes: int
    """The most that one program may take."""
    multiply_adds: int
    """In 16 bits, by all four matrix units together, in a cycle."""
    old_matmul_share: float
    """What HMMA reaches of that; Hopper's peak needs HGMMA (Luo et al., Benchmarking and Dissecting the Nvidia Hopper GPU, 2024)."""
    fp32_lanes: int


A100 = Chip((8, 0), "A100", 108, 1.41e9, 163 * 1024, 1024, 1.0, 64)
H100 = Chip((9, 0), "H100", 132, 1.755e9, 227 * 1024, 2048, 0.62, 128)
CHIPS = {"sm_80": A100, "sm_90": H100}
REGISTERS = 65536
"""Of a multiprocessor."""
WARPS = 64
"""That fit on a multiprocessor."""


@dataclass(frozen=True)
class Limit:
    """One trip of a loop on one multiprocessor, in cycles."""

    pipes: dict[str, float]
    """Busy cycles of each pipe."""
    resident: int
    """Programs that share the multiprocessor."""
    alone: float
    """Cycles of a program that has it for itself, by the assumptions above."""
    matmul_floor: float
    """Cycles of the matrix products alone, at the chip's peak."""

    @property
    def cycles(self) -> float:
        """Of one program's trip, the others working beside it."""
        return max(*self.pipes.values(), self.alone / self.resident)

    @property
    def bound(self) -> str:
        """What holds it up."""
        name = max(self.pipes, key=lambda pipe: self.pipes[pipe])
        return name if self.pipes[name] >= self.alone / self.resident else "latency"

    @property
    def matmul_share(self) -> float:
        """Of the peak of the products that it makes."""
        return self.matmul_floor / self.cycles


def limit(body: list[Instruction], warps: int, registers: int, shared_bytes: int, programs: int, chip: Chip) -> Limit:
    """The limits of one trip through a loop that the `warps` warps of each of `programs` programs go through together."""
    pipes = {"issue": len(body) * warps / ISSUES}
    for instruction in body:
        for pipe, cycles in _use(instruction, chip).items():
            pipes[pipe] = pipes.get(pipe, 0) + cycles * warps
    floor = sum(matmul_work(i) / _peak(i.name, chip) for i in body if i.kind == "matmul") * warps
    barriers = sum(i.kind == "barrier" for i in body)
    loads = any(i.name.startswith("LDG.") for i in body)
    alone = len(body) * max(LONE_WARP, warps / ISSUES) + barriers * BARRIER + loads * LOAD
    together = min(resident(warps, registers, shared_bytes, chip), -(-programs // chip.processors))
    return Limit(pipes, together, alone, floor)


def resident(warps: int, registers: int, shared_bytes: int, chip: Chip) -> int:
    """Programs that fit on a multiprocessor together: by registers (given out 256 a warp), warps and shared memory (1 KiB more each)."""
    by_registers = REGISTERS // (-(-registers * 32 // 256) * 256 * warps)
    by_shared = (chip.shared_bytes + 1024) // (shared_bytes + 1024)
    return max(1, min(by_registers, by_shared, WARPS // warps))


def _use(instruction: Instruction, chip: Chip) -> dict[str, float]:
    """Cycles of a whole multiprocessor that one warp's instruction takes, by pipe."""
    name, kind = instruction.name, instruction.kind
    if kind == "matmul":
        rate = _peak(name, chip) * (1.0 if name.startswith("HGMMA") else chip.old_matmul_share)
        return {"matmul": matmul_work(instruction) / rate}
    if kind in ("shared", "global", "spill", "shuffle"):
        return {"memory": _width(name)}
    if kind == "special" or name.startswith(("F2I", "I2F.")):
        return {"special": 32 / 16}
    if kind == "fp32":
        return {"fma": 32 / chip.fp32_lanes}
    if name.startswith("IMAD"):
        # Half of Hopper's fp32 lanes multiply integers; wide products take two turns.
        return {"fma": (2 if ".WIDE" in name or ".HI" in name else 1) * 32 / 64 * (64 / chip.fp32_lanes), "multiply": 32 / 64}
    if kind in ("integer", "compare", "convert"):
        return {"alu": 32 / 64}
    return {}


def _peak(name: str, chip: Chip) -> float:
    """Multiply-adds of a matrix instruction's dtype in a cycle."""
    return chip.multiply_adds / 2 if "TF32" in name else chip.multiply_adds


def _width(name: str) -> float:
    """Turns of 128 bytes that a warp's access takes where no two lanes meet in a bank."""
    if ".128" in name or "M88.4" in name:
        return 4
    return 2 if ".64" in name or "M88.2" in name else 1
