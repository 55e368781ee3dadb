"""What hosts and devices do side by side: see the run directory, tell the time, write, multiply matrices."""

import time
import uuid
from typing import Any

from jadeberta.preflight.checks import slow_devices
from jadeberta.preflight.collectives import gemm_rates
from jadeberta.preflight.context import ANSWER_S, Session
from jadeberta.preflight.rendezvous import Plan
from jadeberta.preflight.results import Clock
from jadeberta.preflight.storage_info import checkpoint_directories, write_speed
from jadeberta.preflight.timeouts import TimedOut, bounded

EXCHANGES = 5
"""The one with the shortest way counts: its uncertainty is the smallest."""
TURNS = 8
"""Hosts write one after the other, or so many turns' worth of them at the same time."""
LOOK_S = 8.0
GEMM_S = 1.2
SECOND_LOOKS = 2
"""Times that all are measured again where a device looks slow."""
FLUSH_S = 10.0


def see_run_directory(session: Session) -> None:
    """Whether every host sees a file that rank 0 makes in the run directory."""
    path = session.directory / f"seen-{uuid.uuid4().hex}"
    name = ""
    if session.is_root:
        try:
            bounded(LOOK_S, path.touch)
            name = path.name
        except (OSError, TimedOut):
            pass  # told already as a fault of rank 0's host

    def sees(plan: Plan) -> bool | None:
        try:
            return bounded(LOOK_S, (session.directory / plan["name"]).exists) if plan["name"] else None
        except (OSError, TimedOut):
            return False

    results = session.meeting.together("the run directory", {"name": name}, sees, ANSWER_S)
    session.found.blind_hosts = sorted({session.hosts[rank] for rank, sees in results.items() if sees is False})


def read_clocks(session: Session) -> None:
    """Each host's clock against rank 0's, by the way there and back (as NTP does, RFC 5905, section 8)."""
    others = sorted(lead for lead in session.leads(session.meeting.roster).values() if lead != 0)

    def clock(plan: Plan) -> list[float] | None:
        if session.is_root:
            _answer(session, plan["others"])
        return _ask(session) if session.rank in plan["others"] else None

    results = session.meeting.together("clocks", {"others": others}, clock, ANSWER_S)
    for rank, told in results.items():
        if isinstance(told, list):
            session.found.clocks[session.hosts[rank]] = Clock(*told)
    if session.is_root:
        session.found.clocks[session.hosts[0]] = Clock(0.0, 0.0)


def _answer(session: Session, others: list[int]) -> None:
    for rank in others:
        for n in range(EXCHANGES):
            session.meeting.put(f"clock-turn/{rank}/{n}", "")
            try:
                session.meeting.wait_for(f"clock-ask/{rank}/{n}", 1.0)
            except RuntimeError:
                break  # it is silent, and will be missed
            session.meeting.put(f"clock-answer/{rank}/{n}", repr(time.time()))


def _ask(session: Session) -> list[float]:
    exchanges = []
    for n in range(EXCHANGES):
        session.meeting.wait_for(f"clock-turn/{session.rank}/{n}", ANSWER_S)
        asked = time.time()
        session.meeting.put(f"clock-ask/{session.rank}/{n}", "")
        answer = float(session.meeting.wait_for(f"clock-answer/{session.rank}/{n}", 2.0))
        back = time.time()
        exchanges.append(((back - asked) / 2, (asked + back) / 2 - answer))
    uncertainty, offset = min(exchanges)
    return [offset, uncertainty]


def time_writes(session: Session) -> None:
    """How fast each host writes and flushes, in turns."""
    leads = sorted(session.leads(session.meeting.roster).values())
    turns = {str(rank): number % TURNS for number, rank in enumerate(leads)}
    seconds = min(0.5, 0.1 * session.meeting.watch.left / max(1, min(TURNS, len(leads))))

    def write(plan: Plan) -> dict[str, dict[str, Any]] | None:
        turn = plan["turns"].get(str(session.rank))
        if turn is None:
            return None
        for before in (rank for rank, at in plan["turns"].items() if at == turn - 1):
            try:
                session.meeting.wait_for(f"written/{before}", FLUSH_S)
            except RuntimeError:
                continue  # it hangs; its turn is over
        told = _write(session, plan["seconds"])
        session.meeting.put(f"written/{session.rank}", "")
        return told

    results = session.meeting.together("writing", {"turns": turns, "seconds": seconds}, write, FLUSH_S + ANSWER_S)
    for rank, told in results.items():
        if told:
            session.found.writes[session.hosts[rank]] = told.get("speeds", {})
            session.found.write_errors[session.hosts[rank]] = told.get("errors", {})


def _write(session: Session, seconds: float) -> dict[str, dict[str, Any]]:
    speeds, errors = {}, {}
    for key, directory in checkpoint_directories(session.recipe).items():
        try:
            speeds[key] = bounded(FLUSH_S, write_speed, directory, f".preflight-{session.rank:05d}", seconds)
        except (OSError, TimedOut) as e:
            errors[key] = f"{directory}: {e.strerror if isinstance(e, OSError) else e}"
    return {"speeds": speeds, "errors": errors}


def time_products(session: Session) -> None:
    """The matrix products of all devices at the same time; once more where one looks slow."""

    def multiply(plan: Plan) -> list[float] | None:
        if not plan["wanted"] or session.rank not in plan["members"] or session.device is None:
            return None
        return gemm_rates(session.device, plan["seconds"])

    found = session.found
    for attempt in range(1 + SECOND_LOOKS):
        wanted = attempt == 0 or bool(slow_devices(found.gemm_best, session.device_share))
        plan = {"members": session.able_roster(), "seconds": GEMM_S, "wanted": wanted}
        results = session.meeting.together(f"matrix products, pass {attempt + 1}", plan, multiply, ANSWER_S)
        for rank, told in results.items():
            if isinstance(told, list):
                found.gemm_best[rank] = max(*told, found.gemm_best.get(rank, 0.0))
                found.gemm_typical[rank] = sorted(told)[len(told) // 2]
            elif told:
                found.gemm_errors[rank] = told["error"]
