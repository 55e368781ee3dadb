"""The energy of an attempt: from the heartbeats of its ranks to the event `energy` of the ledger, and back.

Each watchdog measures its rank's GPU and its host's processors (`cluster/energy_counters.py`) and writes the sums into its heartbeat; rank
0 adds them up, every ten minutes and where an attempt ends in order. An attempt that is killed loses at most the last ten minutes.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from jadeberta.training.watchdog.heartbeat import record_path
from jadeberta.utils.json_lines import JsonRow, finite

EVERY_S = 600.0
"""Seconds between two events `energy`."""
JOULES_IN_KWH = 3.6e6
KINDS = ("gpu", "cpu")


@dataclass(frozen=True)
class Energy:
    """Energy of some attempts, kWh."""

    gpu_kwh: float | None = None
    """Of the GPUs that were measured; None: none was."""
    cpu_kwh: float | None = None
    """Of processors and memory of the hosts that were measured, other jobs on them included; None: none was."""
    measured: int = 0
    """Attempts in which anything was measured."""
    attempts: int = 0

    def in_words(self) -> str:
        """Returns it as a row of a table."""
        if not self.measured:
            return "not measured"
        kinds = ((self.gpu_kwh, "of GPUs"), (self.cpu_kwh, "of processors and memory"))
        parts = [f"{kwh:,.{3 if kwh < 10 else 1}f} kWh {what}" for kwh, what in kinds if kwh is not None]
        some = f", measured in {self.measured} of {self.attempts} attempts" if self.measured < self.attempts else ""
        return ", ".join(parts) + some


def add_up(records: Iterable[JsonRow]) -> dict[str, Any]:
    """Adds up what the ranks of an attempt have measured; returns the fields of the event, none where nothing was measured.

    Args:
        records: heartbeats. Ranks of one host, or of one GPU, have the same counter; it counts once.
    """
    joules: dict[tuple[str, str], float] = {}
    uptime = 0.0
    for record in records:
        found = record.get("energy_j")
        counters: JsonRow = found if isinstance(found, dict) else {}
        for name in counters:
            used, key = finite(counters, name), (str(record.get("host")), str(name))
            if used is not None and used >= 0:
                joules[key] = max(used, joules.get(key, 0.0))
                uptime = max(uptime, finite(record, "uptime_s") or 0.0)
    if not joules:
        return {}
    gpus, hosts = ({key: used for key, used in joules.items() if key[1].startswith(f"{kind}:")} for kind in KINDS)
    return {
        "gpu_kwh": sum(gpus.values()) / JOULES_IN_KWH if gpus else None,
        "gpus": len(gpus),
        "cpu_kwh": sum(hosts.values()) / JOULES_IN_KWH if hosts else None,
        "hosts": len({host for host, _ in hosts}),
        "seconds": uptime,
    }


def read_energy(run_dir: Path, world_size: int, attempt: int, attempt_id: str = "") -> dict[str, Any]:
    """Reads and adds up what the ranks of an attempt have measured until now; see `add_up`.

    Args:
        run_dir: directory of the run.
        world_size: ranks of the attempt.
        attempt: its number.
        attempt_id: known to its ranks alone; empty: the number decides.
    """
    records = []
    for rank in range(world_size):
        try:
            record = orjson.loads(record_path(run_dir, rank).read_bytes())
        except (OSError, orjson.JSONDecodeError):
            continue
        same = isinstance(record, dict) and record.get("attempt") == attempt
        if same and (not attempt_id or record.get("attempt_id") == attempt_id):
            records.append(record)
    return add_up(records)


def energy_of(ledger: Iterable[JsonRow]) -> dict[int, Energy]:
    """Returns the energy of each attempt by its number, by its newest event: an attempt that measured nothing has an empty one."""
    found: dict[int, Energy] = {}
    attempt = 0
    for row in ledger:
        # Rows of old versions have `life` only.
        named = finite(row, "attempt" if "attempt" in row else "life")
        attempt = attempt if named is None else int(named)
        found.setdefault(attempt, Energy(attempts=1))
        if row.get("event") == "energy":
            gpu, cpu = (kwh if (kwh := finite(row, f"{kind}_kwh")) is not None and kwh >= 0 else None for kind in KINDS)
            before = found[attempt]
            # Two ranks 0 of one attempt, after a host was lost from sight, may both write: the larger sum is the later one.
            gpu, cpu = _larger(gpu, before.gpu_kwh), _larger(cpu, before.cpu_kwh)
            found[attempt] = Energy(gpu, cpu, int(gpu is not None or cpu is not None), 1)
    return found


def total(energies: Iterable[Energy]) -> Energy:
    """Returns the energy of several attempts together."""
    sums, count = Energy(), 0
    for one in energies:
        count += one.attempts
        gpu, cpu = _sum(sums.gpu_kwh, one.gpu_kwh), _sum(sums.cpu_kwh, one.cpu_kwh)
        sums = Energy(gpu, cpu, sums.measured + one.measured, count)
    return sums


def _sum(first: float | None, second: float | None) -> float | None:
    return second if first is None else first + (second or 0.0)


def _larger(first: float | None, second: float | None) -> float | None:
    return second if first is None else max(first, second or 0.0)
