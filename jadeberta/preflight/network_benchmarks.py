"""What the interconnect gives: within each host, between each two hosts, and over all ranks."""

import time
from collections.abc import Callable, Iterator
from typing import Any

from jadeberta.preflight.checks import slow_links
from jadeberta.preflight.collectives import fit, time_collective
from jadeberta.preflight.context import ANSWER_S, CONNECT_S, Session
from jadeberta.preflight.rendezvous import Plan
from jadeberta.preflight.results import Pair
from jadeberta.preflight.round_robin import Round, rounds, second_look

PAIR_S = 0.8
SECOND_LOOKS = 3
"""Times that a host which looks slow is measured again before it is called slow: to leave a good one out costs more than a second."""
SECOND_LOOK_ROUNDS = 4
LARGE = 1 << 20
"""Bytes from which on a message shows the bandwidth; smaller ones may pass in the buffers of the switches."""
MOST_FASTER = 1.5
"""A link is at most so much faster than its bytes over its seconds, latency and all; of the largest messages it is a few per cent."""
TOURNAMENT_SHARE, SECOND_LOOK_SHARE = 0.35, 0.15
"""Of the time that is left; with many hosts the tournament ends before every host has met every other."""


def time_inside(session: Session) -> None:
    """An all-reduce among the ranks of each host, on all hosts at the same time."""
    groups: dict[str, list[int]] = {}
    for rank in session.able_roster():
        groups.setdefault(session.hosts[rank], []).append(rank)
    teams = [team for team in groups.values() if len(team) > 1]
    plan = {"teams": teams, "seconds": min(1.0, 0.1 * session.meeting.watch.left)}
    results = session.meeting.together("all-reduce within hosts", plan, _team_work(session, "inside"), ANSWER_S)
    for team in teams:
        told, host = results.get(team[0]), session.hosts[team[0]]
        if isinstance(told, list) and (line := fit("all_reduce", len(team), told)) is not None:
            session.found.inside[host] = line.bandwidth_bytes_per_s
        elif errors := [each["error"] for rank in team if isinstance(each := results.get(rank), dict)]:
            session.found.inside_errors[host] = errors[0]


def _team_work(session: Session, name: str) -> Callable[[Plan], Any]:
    """An all-reduce in the team of this rank, where the plan has one: the best time of each size."""

    def work(plan: Plan) -> Any:
        team = next((team for team in plan["teams"] if session.rank in team), None)
        if team is None or session.device is None:
            return None
        # Named after its first rank: the teams work at the same time.
        with session.meeting.group(f"{name}/{team[0]}", team, session.device, CONNECT_S):
            return time_collective("all_reduce", session.device, plan["seconds"])[0]

    return work


def play_tournament(session: Session) -> None:
    """An all-reduce between one rank of each host and one of every other; once more with those that look slow."""
    leads = session.leads(session.able_roster())
    schedule = rounds(len(leads))
    coming = _rounds(session, leads, schedule)
    number = 0
    while _play(session, number, next(coming, None)):
        number += 1
    session.found.rounds = (min(number, len(schedule)), len(schedule))


def _rounds(session: Session, leads: dict[str, int], schedule: list[Round]) -> Iterator[list[list[int]]]:
    """Teams of each round, as long as there is time and a reason; on rank 0."""
    now, left = time.monotonic(), session.meeting.watch.left
    hosts, ranks = list(leads), list(leads.values())
    coming, until = schedule, now + TOURNAMENT_SHARE * left
    for looks in range(1 + SECOND_LOOKS):
        for number, pairs in enumerate(coming):
            if time.monotonic() > until and (looks, number) != (1, 0):  # suspects get at least one more chance
                break
            teams = [[ranks[a], ranks[b]] for a, b in pairs]
            yield [team for team in teams if set(team) <= set(session.meeting.roster)]  # a rank may have fallen silent
        suspects = {hosts.index(host) for host in slow_links(session.found.pairs, session.link_share)}
        coming, until = second_look(schedule, suspects, SECOND_LOOK_ROUNDS), now + (TOURNAMENT_SHARE + SECOND_LOOK_SHARE) * left


def _play(session: Session, number: int, teams: list[list[int]] | None) -> bool:
    """One round; on rank 0 None stands for the end. Whether a round was played."""
    told: Plan = {}

    def work(plan: Plan) -> Any:
        told.update(plan)
        return _team_work(session, f"round-{number}")(plan)

    plan = {"teams": teams or [], "over": teams is None, "seconds": PAIR_S}
    results = session.meeting.together(f"all-reduce of pairs, round {number + 1}", plan, work, ANSWER_S)
    session.found.pairs += [_pair(session, team, results) for team in teams or []]
    return not told["over"]


def _pair(session: Session, team: list[int], results: dict[int, Any]) -> Pair:
    pair = Pair(session.hosts[team[0]], session.hosts[team[1]])
    answers = [results.get(rank) for rank in team]
    if errors := [each["error"] if each else "no answer" for each in answers if not isinstance(each, list)]:
        pair.error = errors[0]
    else:
        pair.latency_s, pair.bandwidth_bytes_per_s = link_of(answers[0] or [])
    return pair


def link_of(points: list[tuple[int, float]]) -> tuple[float, float]:
    """Latency and bandwidth between two ranks, of the size that shows the most: what disturbed another one is not the link's fault.

    Args:
        points: bytes and seconds of an all-reduce, the smallest message first, one of `LARGE` bytes among the others.
    """
    small, *larger = points
    found = []
    for size, seconds in (point for point in larger if point[0] >= LARGE):
        line = fit("all_reduce", 2, [small, (size, seconds)])
        assert line is not None
        # A small message that was held up looks as slow as a large one, and the link between them as fast as may be.
        found.append((min(line.bandwidth_bytes_per_s, MOST_FASTER * size / seconds), line.latency_s))
    bandwidth, latency = max(found)
    return latency, bandwidth


def time_overall(session: Session) -> None:
    """All-reduce and all-gather over all ranks but those of hosts that reach nobody."""
    reached = {host for pair in session.found.pairs if not pair.error for host in (pair.a, pair.b)}
    tried = {host for pair in session.found.pairs for host in (pair.a, pair.b)}
    members = [rank for rank in session.able_roster() if session.hosts[rank] not in tried - reached]
    plan = {"members": members, "seconds": min(2.5, 0.2 * session.meeting.watch.left)}

    def work(plan: Plan) -> dict[str, Any] | None:
        if session.rank not in plan["members"] or len(plan["members"]) < 2 or session.device is None:
            return None
        with session.meeting.group("all", plan["members"], session.device, CONNECT_S):
            return {
                collective: time_collective(collective, session.device, plan["seconds"])[1]
                for collective in ("all_reduce", "all_gather")
            }

    results = session.meeting.together("all-reduce of all ranks", plan, work, ANSWER_S)
    answers = [each for each in (results.get(rank) for rank in members) if each is not None]
    if errors := [each["error"] for each in answers if "error" in each]:
        session.found.overall_error = errors[0]
    elif answers:
        session.found.all_reduce = fit("all_reduce", len(members), answers[0]["all_reduce"])
        session.found.all_gather = fit("all_gather", len(members), answers[0]["all_gather"])
