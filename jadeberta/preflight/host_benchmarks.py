"""Benchmarks of hosts and devices: access to the run directory, clocks, write speed, matrix products."""

import time
import uuid
from typing import Any

from jadeberta.preflight.checks import slow_devices
from jadeberta.preflight.collectives import gemm_rates
from jadeberta.preflight.context import ANSWER_S, Context
from jadeberta.preflight.rendezvous import Plan
from jadeberta.preflight.results import ClockOffset
from jadeberta.preflight.storage_info import checkpoint_directories, write_speed
from jadeberta.preflight.timeouts import TimedOut, call_with_timeout

EXCHANGES = 5
"""Exchanges with each clock; the one with the shortest round trip counts, because its uncertainty is the smallest."""
TURNS = 8
"""Turns of the write benchmark: up to this many hosts write one after another; of more hosts, several share a turn."""
CHECK_S = 8.0
GEMM_S = 1.2
REPEATS = 2
"""Times that all devices are measured again if one looks slow."""
FLUSH_S = 10.0


def see_run_directory(context: Context) -> None:
    """Checks that every host sees a file that rank 0 makes in the run directory."""
    # A new name each time: a network file system may have cached that an old one does not exist.
    path = context.directory / f"seen-{uuid.uuid4().hex}"
    name = ""
    if context.is_root:
        try:
            call_with_timeout(CHECK_S, path.touch)
            name = path.name
        except (OSError, TimedOut):
            pass  # already a fault of rank 0's host

    def sees(plan: Plan) -> bool | None:
        try:
            return call_with_timeout(CHECK_S, (context.directory / plan["name"]).exists) if plan["name"] else None
        except (OSError, TimedOut):
            return False

    results = context.rendezvous.run_on_all("the run directory", {"name": name}, sees, ANSWER_S)
    context.measurements.blind_hosts = sorted({context.hosts[rank] for rank, sees in results.items() if sees is False})


def read_clocks(context: Context) -> None:
    """Measures the offset of each host's clock from rank 0's by round trips (NTP, RFC 5905, section 8)."""
    others = sorted(lead for lead in context.lead_ranks(context.rendezvous.active_ranks).values() if lead != 0)

    def clock(plan: Plan) -> list[float] | None:
        if context.is_root:
            _answer(context, plan["others"])
        return _ask(context) if context.rank in plan["others"] else None

    results = context.rendezvous.run_on_all("clocks", {"others": others}, clock, ANSWER_S)
    for rank, offset in results.items():
        if isinstance(offset, list):
            context.measurements.clocks[context.hosts[rank]] = ClockOffset(*offset)
    if context.is_root:
        context.measurements.clocks[context.hosts[0]] = ClockOffset(0.0, 0.0)


def _answer(context: Context, others: list[int]) -> None:
    # One rank after another: rank 0 answers one at a time, and waiting would lengthen the round trips.
    for rank in others:
        for n in range(EXCHANGES):
            context.rendezvous.put(f"clock-turn/{rank}/{n}", "")
            try:
                context.rendezvous.wait_for(f"clock-ask/{rank}/{n}", 1.0)
            except RuntimeError:
                break  # the rank does not answer; run_on_all will count it as lost
            context.rendezvous.put(f"clock-answer/{rank}/{n}", repr(time.time()))


def _ask(context: Context) -> list[float]:
    exchanges = []
    for n in range(EXCHANGES):
        context.rendezvous.wait_for(f"clock-turn/{context.rank}/{n}", ANSWER_S)
        asked = time.time()
        context.rendezvous.put(f"clock-ask/{context.rank}/{n}", "")
        answer = float(context.rendezvous.wait_for(f"clock-answer/{context.rank}/{n}", 2.0))
        back = time.time()
        exchanges.append(((back - asked) / 2, (asked + back) / 2 - answer))
    uncertainty, offset = min(exchanges)
    return [offset, uncertainty]


def time_writes(context: Context) -> None:
    """Measures how fast each host writes and flushes, in turns."""
    lead_ranks = sorted(context.lead_ranks(context.rendezvous.active_ranks).values())
    turns = {str(rank): number % TURNS for number, rank in enumerate(lead_ranks)}
    seconds = min(0.5, 0.1 * context.rendezvous.deadline.remaining / max(1, min(TURNS, len(lead_ranks))))

    def write(plan: Plan) -> dict[str, dict[str, Any]] | None:
        turn = plan["turns"].get(str(context.rank))
        if turn is None:
            return None
        for before in (rank for rank, at in plan["turns"].items() if at == turn - 1):
            try:
                context.rendezvous.wait_for(f"written/{before}", FLUSH_S)
            except RuntimeError:
                continue  # that host hangs; its turn is over
        outcome = _write(context, plan["seconds"])
        context.rendezvous.put(f"written/{context.rank}", "")
        return outcome

    results = context.rendezvous.run_on_all("writing", {"turns": turns, "seconds": seconds}, write, FLUSH_S + ANSWER_S)
    for rank, outcome in results.items():
        if outcome:
            context.measurements.writes[context.hosts[rank]] = outcome.get("speeds", {})
            context.measurements.write_errors[context.hosts[rank]] = outcome.get("errors", {})


def _write(context: Context, seconds: float) -> dict[str, dict[str, Any]]:
    speeds, errors = {}, {}
    for key, directory in checkpoint_directories(context.recipe).items():
        try:
            # A name for each rank, because hosts write into one shared directory.
            speeds[key] = call_with_timeout(FLUSH_S, write_speed, directory, f".preflight-{context.rank:05d}", seconds)
        except (OSError, TimedOut) as e:
            errors[key] = f"{directory}: {e.strerror if isinstance(e, OSError) else e}"
    return {"speeds": speeds, "errors": errors}


def time_products(context: Context) -> None:
    """Times the matrix product of all devices at the same time, and again if one looks slow."""

    def multiply(plan: Plan) -> list[float] | None:
        if not plan["wanted"] or context.rank not in plan["members"] or context.device is None:
            return None
        return gemm_rates(context.device, plan["seconds"])

    measurements = context.measurements
    for attempt in range(1 + REPEATS):
        # All ranks take part in every pass, since only rank 0 knows whether a device looks slow.
        wanted = attempt == 0 or bool(slow_devices(measurements.gemm_best, context.device_share))
        plan = {"members": context.device_ranks(), "seconds": GEMM_S, "wanted": wanted}
        results = context.rendezvous.run_on_all(f"matrix products, pass {attempt + 1}", plan, multiply, ANSWER_S)
        for rank, rates in results.items():
            if isinstance(rates, list):
                measurements.gemm_best[rank] = max(*rates, measurements.gemm_best.get(rank, 0.0))
                measurements.gemm_typical[rank] = sorted(rates)[len(rates) // 2]
            elif rates:
                measurements.gemm_errors[rank] = rates["error"]
