"""How much memory the kernel will still give."""

import contextlib
from pathlib import Path


def available_memory() -> int:
    """Bytes of memory that this process may still take: of the machine, or of its control group where that allows less.

    Asked beforehand, because the kernel does not refuse memory but ends whoever uses it.
    """
    with open("/proc/meminfo") as f:
        free = next(int(line.split()[1]) << 10 for line in f if line.startswith("MemAvailable:"))
    with contextlib.suppress(OSError, ValueError, KeyError, StopIteration):
        group = next(line.split("::")[1].strip() for line in open("/proc/self/cgroup") if line.startswith("0::"))  # noqa: SIM115
        folder = Path("/sys/fs/cgroup") / group.lstrip("/")
        limit = int((folder / "memory.max").read_text())  # "max" is no number: no limit
        used = int((folder / "memory.current").read_text())
        figures = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
        # The page cache counts as used, but the kernel takes it back when a process needs memory.
        free = min(free, limit - used + int(figures["inactive_file"]) + int(figures["active_file"]))
    return free
