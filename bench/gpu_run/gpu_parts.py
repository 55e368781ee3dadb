"""The parts of `bench/gpu.sh`, the most valuable first, and the rules by which they share the time.

Parts of the kind `beside` start with the first part and compile for a minute or two while the others run; whatever is timed holds a lock,
so that two parts never time at once. A part of the kind `alone` needs the whole memory of the device.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

BUDGET_S = 465.0
"""Of the whole run, from the first line of the script; what comes after it (the last write) takes a second, and the promise is 480."""
REHEARSED_S = 900.0
LEAST_S = 8.0
"""No part begins with less: it would not get past importing torch."""


@dataclass(frozen=True)
class GpuPart:
    """One part: a process of its own."""

    name: str
    command: tuple[str, ...]
    """Arguments of Python, or with `program` those of that program."""
    share_s: float
    """Seconds that are kept for it while earlier parts run."""
    most_s: float
    """Seconds after which it is ended, however much time is left."""
    beside: bool = False
    alone: bool = False
    environment: dict[str, str] = field(default_factory=dict)
    program: str = ""
    """Needed in PATH, instead of Python."""


def granted(part: GpuPart, later: Sequence[GpuPart], left_s: float) -> float:
    """Seconds that a part gets: its share, and what is left after the shares of the parts to come; 0 where it cannot begin.

    Args:
        part: the part that begins.
        later: the parts that have not begun; those beside cost nothing, they have begun with the first.
        left_s: of the whole run.
    """
    spare = left_s - sum(other.share_s for other in later if not other.beside)
    seconds = min(part.most_s, left_s, max(part.share_s, spare))
    return seconds if seconds >= min(LEAST_S, part.most_s) else 0.0


def parts_of(rehearse: bool) -> list[GpuPart]:
    """All parts. A rehearsal has the same, but compute-sanitizer's; kernels go through Triton's interpreter there."""
    interpreter = {"TRITON_INTERPRET": "1"} if rehearse else {}
    few = {"TORCHINDUCTOR_COMPILE_THREADS": "4"}
    of_parity = [
        "--steps",
        "2",
        "--seeds",
        "1",
        "--rows",
        "2",
        "--length",
        "32",
        "--layers",
        "1",
        "--width",
        "64",
        "--device",
        "cpu",
    ]
    of_parity += ["--attention", "sdpa"]
    parts = [
        GpuPart("facts", _module("machine_facts"), 15, 30),
        GpuPart("step fused compiled", _module("whole_step", "fused, compiled"), 150, 260, beside=True, environment=few),
        GpuPart("step sdpa compiled", _module("whole_step", "sdpa, compiled"), 150, 260, beside=True, environment=few),
        GpuPart("step eager", _module("whole_step", "eager"), 60, 120, beside=True),
        GpuPart("step eager compiled", _module("whole_step", "eager, compiled"), 150, 260, beside=True, environment=few),
        GpuPart("engine", _module("engine_steps"), 150, 280, beside=True, environment=few),
        GpuPart("kernels", _module("kernels_right"), 45, 75, environment=interpreter),
        GpuPart("attention", _module("attention_times"), 40, 60),
        # Eight processes that compile would slow down the host times of the steps.
        GpuPart("same bits", _module("same_bits"), 60, 110, alone=True),
        GpuPart("memory", _module("largest_batch"), 30, 45, alone=True),
        GpuPart("save", _module("save_stall"), 40, 60, alone=True),
        # Once more with the cores free, compiled already: host times beside five processes that compile are too long.
        GpuPart("attention quiet", _module("attention_times"), 25, 40, alone=True),
        GpuPart("tiles", _module("tile_times"), 45, 100, alone=True),
        GpuPart("parity", ("bench/kernels/loss_parity.py", *(of_parity if rehearse else ())), 35, 50, alone=True),
        GpuPart("sdpa", ("bench/steps/check_step.py", "--rehearse" if rehearse else "--quick"), 40, 70, alone=True),
    ]
    if rehearse:
        # A busy laptop may take ten times as long to import torch; what is rehearsed is the way, not the time.
        parts = [replace(part, share_s=REHEARSED_S, most_s=REHEARSED_S) for part in parts]
    else:
        told = ("--report-api-errors", "no", "--error-exitcode", "1", "python", "bench/kernels/check_kernels.py", "--small")
        # Every allocation by itself, or a read beyond a tensor would land in its neighbour unseen.
        apart = {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}
        for tool in ("memcheck", "racecheck"):
            command = ("--tool", tool, *told)
            parts.append(GpuPart(tool, command, 0, 120, alone=True, environment=apart, program="compute-sanitizer"))
    return parts


def _module(name: str, option: str = "") -> tuple[str, ...]:
    return ("-m", "bench.gpu_run.one_part", name, *(["--way", option] if option else []))
