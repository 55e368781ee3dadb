"""Benchmarks of the interconnect: within each host, between each two hosts, and over all ranks."""

import time
from collections.abc import Callable, Iterator
from typing import Any

from jadeberta.preflight.checks import slow_links
from jadeberta.preflight.collectives import fit_latency_bandwidth, time_collective
from jadeberta.preflight.context import Context, answer_s
from jadeberta.preflight.rendezvous import Plan
from jadeberta.preflight.results import HostPair
from jadeberta.preflight.round_robin import Round, repeat_rounds, rounds

PAIR_S = 0.8
REPEATS = 3
"""Times that a host that looks slow is measured again: to exclude a good host costs more than a second."""
REPEAT_ROUNDS = 4
LARGE = 1 << 20
"""Message size in bytes from which the time shows the bandwidth; smaller messages may fit into the buffers of the switches."""
MOST_FASTER = 1.5
"""Upper limit of a link's bandwidth as a multiple of bytes / seconds with latency; for the largest messages the two differ by a few
per cent."""
ROUND_ROBIN_SHARE, REPEAT_SHARE = 0.35, 0.15
"""Shares of the remaining time; with many hosts the round robin ends before every pair is measured."""


def time_inside(context: Context) -> None:
    """Times an all-reduce among the ranks of each host, on all hosts at the same time."""
    ranks_by_host: dict[str, list[int]] = {}
    for rank in context.device_ranks():
        ranks_by_host.setdefault(context.hosts[rank], []).append(rank)
    groups = [group for group in ranks_by_host.values() if len(group) > 1]
    connect_s = context.next_connect_s(groups)
    plan = {"groups": groups, "seconds": min(1.0, 0.1 * context.rendezvous.deadline.remaining), "connect_s": connect_s}
    work = _group_all_reduce(context, "inside")
    results = context.rendezvous.run_on_all("all-reduce within hosts", plan, work, answer_s(connect_s))
    for group in groups:
        timings, host = results.get(group[0]), context.hosts[group[0]]
        if isinstance(timings, list) and (fit := fit_latency_bandwidth("all_reduce", len(group), timings)) is not None:
            context.measurements.inside[host] = fit.bandwidth_bytes_per_s
        elif errors := [each["error"] for rank in group if isinstance(each := results.get(rank), dict)]:
            context.measurements.inside_errors[host] = errors[0]


def _group_all_reduce(context: Context, name: str) -> Callable[[Plan], Any]:
    """Returns the work of a rank: an all-reduce in its group of the plan, if it has one; the best time of each size."""

    def work(plan: Plan) -> Any:
        group = next((group for group in plan["groups"] if context.rank in group), None)
        if group is None or context.device is None:
            return None
        # The key contains the first rank, because all groups use the store at the same time.
        with context.rendezvous.group(f"{name}/{group[0]}", group, context.device, plan["connect_s"]):
            return time_collective("all_reduce", context.device, plan["seconds"])[0]

    return work


def time_pairs(context: Context) -> None:
    """Times an all-reduce between each two hosts (one rank each) in a round robin, and again for hosts that look slow."""
    lead_ranks = context.lead_ranks(context.device_ranks())
    schedule = rounds(len(lead_ranks))
    coming = _plan_rounds(context, lead_ranks, schedule)
    number = 0
    while _run_round(context, number, next(coming, None)):
        number += 1
    context.measurements.rounds = (min(number, len(schedule)), len(schedule))


def _plan_rounds(context: Context, lead_ranks: dict[str, int], schedule: list[Round]) -> Iterator[list[list[int]]]:
    """Teams of each round, while there is time and a suspect; on rank 0."""
    now, left = time.monotonic(), context.rendezvous.deadline.remaining
    hosts, ranks = list(lead_ranks), list(lead_ranks.values())
    coming, until = schedule, now + ROUND_ROBIN_SHARE * left
    for looks in range(1 + REPEATS):
        for number, pairs in enumerate(coming):
            if time.monotonic() > until and (looks, number) != (1, 0):  # suspects are measured at least once more
                break
            groups = [[ranks[a], ranks[b]] for a, b in pairs]
            yield [group for group in groups if set(group) <= set(context.rendezvous.active_ranks)]  # a rank may be lost by now
        suspects = {hosts.index(host) for host in slow_links(context.measurements.pairs, context.link_share)}
        coming, until = repeat_rounds(schedule, suspects, REPEAT_ROUNDS), now + (ROUND_ROBIN_SHARE + REPEAT_SHARE) * left


def _run_round(context: Context, number: int, groups: list[list[int]] | None) -> bool:
    """Runs one round; None on rank 0 marks the end. Returns whether a round was run."""
    received: Plan = {}

    def work(plan: Plan) -> Any:
        received.update(plan)
        return _group_all_reduce(context, f"round-{number}")(plan)

    connect_s = context.next_connect_s(groups or [])
    plan = {"groups": groups or [], "finished": groups is None, "seconds": PAIR_S, "connect_s": connect_s}
    results = context.rendezvous.run_on_all(f"all-reduce of pairs, round {number + 1}", plan, work, answer_s(connect_s))
    context.measurements.pairs += [_pair(context, group, results) for group in groups or []]
    return not received["finished"]


def _pair(context: Context, group: list[int], results: dict[int, Any]) -> HostPair:
    pair = HostPair(context.hosts[group[0]], context.hosts[group[1]])
    answers = [results.get(rank) for rank in group]
    if errors := [each["error"] if each else "no answer" for each in answers if not isinstance(each, list)]:
        pair.error = errors[0]
    else:
        pair.latency_s, pair.bandwidth_bytes_per_s = latency_bandwidth_of(answers[0] or [])
    return pair


def latency_bandwidth_of(points: list[tuple[int, float]]) -> tuple[float, float]:
    """Returns latency (s) and bandwidth (bytes/s) between two ranks, from the message size with the highest bandwidth.

    A disturbance of another size is not the link's fault.

    Args:
        points: bytes and seconds of an all-reduce, the smallest message first, one of `LARGE` bytes among the others.
    """
    small, *larger = points
    found = []
    for size, seconds in (point for point in larger if point[0] >= LARGE):
        fit = fit_latency_bandwidth("all_reduce", 2, [small, (size, seconds)])
        assert fit is not None
        # If the small message was delayed, its time is near that of the large one, and the fitted bandwidth has no meaning.
        found.append((min(fit.bandwidth_bytes_per_s, MOST_FASTER * size / seconds), fit.latency_s))
    bandwidth, latency = max(found)
    return latency, bandwidth


def time_overall(context: Context) -> None:
    """Times all-reduce and all-gather over all ranks, without the ranks of hosts that reach no other host."""
    reached = {host for pair in context.measurements.pairs if not pair.error for host in (pair.a, pair.b)}
    tried = {host for pair in context.measurements.pairs for host in (pair.a, pair.b)}
    members = [rank for rank in context.device_ranks() if context.hosts[rank] not in tried - reached]
    connect_s = context.next_connect_s([members])
    plan = {"members": members, "seconds": min(2.5, 0.2 * context.rendezvous.deadline.remaining), "connect_s": connect_s}

    def work(plan: Plan) -> dict[str, Any] | None:
        if context.rank not in plan["members"] or len(plan["members"]) < 2 or context.device is None:
            return None
        with context.rendezvous.group("all", plan["members"], context.device, plan["connect_s"]):
            return {
                collective: time_collective(collective, context.device, plan["seconds"])[1]
                for collective in ("all_reduce", "all_gather")
            }

    results = context.rendezvous.run_on_all("all-reduce of all ranks", plan, work, answer_s(connect_s))
    answers = [each for each in (results.get(rank) for rank in members) if each is not None]
    if errors := [each["error"] for each in answers if "error" in each]:
        context.measurements.overall_error = errors[0]
    elif answers:
        context.measurements.all_reduce = fit_latency_bandwidth("all_reduce", len(members), answers[0]["all_reduce"])
        context.measurements.all_gather = fit_latency_bandwidth("all_gather", len(members), answers[0]["all_gather"])
