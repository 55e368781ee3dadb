"""A watchdog in the test's own process, of a trainer that is this process too."""

import mmap
import os
import socket
import time
from pathlib import Path

from jadeberta.training.watchdog.heartbeat import PHASES
from jadeberta.training.watchdog.monitor import Watchdog, WatchdogArguments

OPEN: list["Watched"] = []
"""Those of the present test, which the fixture of conftest.py closes."""


class Watched:
    """A watchdog in this process, of a trainer that is this process too."""

    def __init__(self, run: Path, powercap: Path, nvml: str, world_size: int = 1) -> None:
        self.sockets = socket.socketpair()
        memory = os.memfd_create("heartbeat")
        os.ftruncate(memory, mmap.PAGESIZE)
        energy = {"gpu": "GPU-one", "powercap": str(powercap), "nvml": nvml, "every_s": 0.01}
        limits = dict.fromkeys(PHASES, 60.0)
        arguments = WatchdogArguments(
            str(run), 0, world_size, limits, os.getpid(), 4, "id", 0.0, "", energy, memory, self.sockets[0].detach()
        )  # fmt: skip
        self.watchdog = Watchdog(arguments)
        os.close(memory)
        OPEN.append(self)

    def close(self) -> None:
        self.watchdog.meter.stop()
        self.watchdog.socket.close()
        self.sockets[1].close()

    def wait_for(self, gpu_joules: float) -> dict:
        end = time.monotonic() + 10
        while (record := self.watchdog.take_record()).get("energy_j", {}).get("gpu:GPU-one") != gpu_joules:
            assert time.monotonic() < end, record
            time.sleep(0.01)
        return record
