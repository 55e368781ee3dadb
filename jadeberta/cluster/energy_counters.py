"""Energy counters of a machine: NVIDIA's of a GPU (NVML) and the processor's (RAPL, where this user may read it).

Read by the watchdog process of a rank, never by the training. What cannot be read is not measured; nothing here raises for it. Imports
nothing heavy: NVML is called in the driver's own library, so no package is needed.
"""

import ctypes
import os
import re
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from jadeberta.utils.json_lines import finite

POWERCAP = Path("/sys/class/powercap")
"""Folder of the kernel's energy counters."""
NVML = "libnvidia-ml.so.1"
"""The driver's management library."""
EVERY_S = 10.0
"""Seconds between two samples. A RAPL counter of 262 kJ wraps after a quarter of an hour at 300 W."""
NOT_SUPPORTED = 3
"""NVML_ERROR_NOT_SUPPORTED: this GPU has no such counter."""
ZONE = re.compile(r"intel-rapl:\d+(:\d+)?")
"""Zones of RAPL, on processors of AMD too; the same counters appear a second time as intel-rapl-mmio."""


@dataclass
class Counter:
    """A counter that only rises, but for a wrap-around or a reset."""

    name: str
    """Unique on its host: gpu:UUID, or cpu:ZONE."""
    read: Callable[[], float | None]
    """Gives the counter, joules; None where it does not answer now."""
    wraps_at: float = 0.0
    """Joules after which it begins at 0 again; 0: it begins anew only where its device is reset."""
    last: float | None = None
    used: float = 0.0
    """Joules since the first sample."""

    def sample(self) -> None:
        """Adds what was used since the last sample."""
        now = self.read()
        if now is None:
            return
        if self.last is not None:
            # A counter that fell has wrapped, or was reset: then it has counted what it shows since.
            self.used += (
                now - self.last if now >= self.last else now + max(0.0, self.wraps_at - self.last if self.wraps_at else 0.0)
            )
        self.last = now


def find_counters(gpu: str, powercap: Path, nvml: str) -> list[Counter]:
    """Returns the counters that there are and that this user may read; one that does not answer now may do so later.

    Args:
        gpu: UUID of the rank's GPU as the driver writes it; empty: it has none.
        powercap: folder of the kernel's counters.
        nvml: name or path of the driver's library.
    """
    counters = [*_rapl(powercap), *([_nvml(gpu, nvml)] if gpu else [])]
    return [counter for counter in counters if counter is not None]


def _rapl(powercap: Path) -> list[Counter | None]:
    try:
        zones = sorted(zone for zone in powercap.iterdir() if ZONE.fullmatch(zone.name))
    except OSError:
        return []
    return [_zone(zone) for zone in zones]


def _zone(zone: Path) -> Counter | None:
    """A processor package, or memory beside it; other zones (core, uncore, psys) count a part of a package, or packages again."""
    try:
        kind = (zone / "name").read_text().strip()
    except OSError:
        return None
    if not (kind.startswith("package") or kind == "dram") or not os.access(zone / "energy_uj", os.R_OK):
        return None
    wraps_at = _microjoules(zone / "max_energy_range_uj")
    return Counter(f"cpu:{zone.name}", lambda: _microjoules(zone / "energy_uj"), wraps_at or 0.0)


def _microjoules(path: Path) -> float | None:
    try:
        return int(path.read_text()) / 1e6
    except (OSError, ValueError):
        return None


def _nvml(gpu: str, library: str) -> Counter | None:
    """The energy counter of a GPU; where it has none (before Volta), its power over time."""
    try:
        lib = ctypes.CDLL(library)
        handle = ctypes.c_void_p()
        if lib.nvmlInit_v2() or lib.nvmlDeviceGetHandleByUUID(gpu.encode(), ctypes.byref(handle)):
            return None
        energy, power = lib.nvmlDeviceGetTotalEnergyConsumption, lib.nvmlDeviceGetPowerUsage
    except (OSError, AttributeError):
        return None
    energy.argtypes = [ctypes.c_void_p, ctypes.POINTER(ctypes.c_ulonglong)]
    power.argtypes = [ctypes.c_void_p, ctypes.POINTER(ctypes.c_uint)]

    millijoules, milliwatts = ctypes.c_ulonglong(), ctypes.c_uint()

    def joules() -> float | None:
        return None if energy(handle, ctypes.byref(millijoules)) else millijoules.value / 1000

    def watts() -> float | None:
        return None if power(handle, ctypes.byref(milliwatts)) else milliwatts.value / 1000

    if energy(handle, ctypes.byref(millijoules)) != NOT_SUPPORTED:
        return Counter(f"gpu:{gpu}", joules)
    if power(handle, ctypes.byref(milliwatts)) != NOT_SUPPORTED:
        return Counter(f"gpu:{gpu}", PowerOverTime(watts).read)
    return None


class PowerOverTime:
    """A counter made of a power, by the trapezoidal rule."""

    def __init__(self, watts: Callable[[], float | None], clock: Callable[[], float] = time.monotonic) -> None:
        self._watts, self._clock = watts, clock
        self._last: tuple[float, float] | None = None
        self._joules = 0.0

    def read(self) -> float | None:
        """Gives the joules since the first call; None where the power is not known now."""
        power, now = self._watts(), self._clock()
        if power is None:
            self._last = None  # the time until it answers again is not measured
            return None
        if self._last is not None:
            self._joules += (power + self._last[1]) / 2 * (now - self._last[0])
        self._last = (now, power)
        return self._joules


class EnergyMeter:
    """Samples the counters in a thread of its own: a driver that hangs holds up nothing else."""

    def __init__(self, gpu: str, powercap: str, nvml: str, every_s: float = EVERY_S) -> None:
        """Starts the thread.

        Args:
            gpu: UUID of the rank's GPU; empty: it has none.
            powercap: folder of the kernel's counters.
            nvml: name or path of the driver's library.
            every_s: seconds between two samples.
        """
        self._where, self._every_s = (gpu, Path(powercap), nvml), every_s
        self._before: dict[str, float] = {}
        self._used: dict[str, float] = {}
        self._stopping = threading.Event()
        threading.Thread(target=self._run, daemon=True, name="energy").start()

    def go_on_from(self, before: dict[str, float]) -> None:
        """Adds what a watchdog before this one has measured in the same attempt, joules by counter."""
        self._before = {name: joules for name in before if (joules := finite(before, name)) is not None}

    def joules(self) -> dict[str, float]:
        """Returns the joules used since the attempt began, by counter; empty where nothing can be measured."""
        names = [*self._before, *(name for name in self._used if name not in self._before)]
        return {name: round(self._before.get(name, 0.0) + self._used.get(name, 0.0), 3) for name in names}

    def stop(self) -> None:
        """Ends the thread after its present sample; a watchdog process just ends."""
        self._stopping.set()

    def _run(self) -> None:
        counters = find_counters(*self._where)
        while counters:
            for counter in counters:
                counter.sample()
            self._used = {c.name: c.used for c in counters if c.last is not None}
            if self._stopping.wait(self._every_s):
                return
