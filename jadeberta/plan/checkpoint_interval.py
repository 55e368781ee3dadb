"""How often to save: the share of the wall time that is useful, for failures at random times.

Pure functions of seconds. Checked against a simulation of random failures in tests/plan/test_checkpoint_interval.py.

Symbols: tau is the training between two saves (interval_s), d the stall of a save (stall_s), w the time of the background write until
the checkpoint counts (write_s), R the time from an end until training goes on (restart_s), M the mean time between failures (mtbf_s).
"""

import math


def young(stall_s: float, mtbf_s: float) -> float:
    """Returns the training between two saves, first order: sqrt(2 d M).

    J. W. Young, A first order approximation to the optimum checkpoint interval, Communications of the ACM 17 (1974).
    """
    return math.sqrt(2 * stall_s * mtbf_s)


def daly(stall_s: float, mtbf_s: float) -> float:
    """Returns the training between two saves, higher order: sqrt(2 d M) (1 + sqrt(d / 2M) / 3 + (d / 2M) / 9) - d, and M where d >= 2M.

    J. T. Daly, A higher order estimate of the optimum checkpoint interval for restart dumps, Future Generation Computer Systems 22
    (2006).
    """
    if stall_s >= 2 * mtbf_s:
        return mtbf_s
    ratio = stall_s / (2 * mtbf_s)
    return math.sqrt(2 * stall_s * mtbf_s) * (1 + math.sqrt(ratio) / 3 + ratio / 9) - stall_s


def expected_efficiency(
    interval_s: float, stall_s: float, write_s: float, restart_s: float, mtbf_s: float, limit_s: float = math.inf
) -> float:
    """Returns useful training as a share of the wall time, in the long run.

    Args:
        interval_s: training between two saves, above 0.
        stall_s: time for which the training stands still for a save.
        write_s: time from the end of the stall until the checkpoint counts; training goes on meanwhile, the next save waits for it.
        restart_s: time from the end of an attempt until training goes on; a failure meanwhile begins it anew.
        mtbf_s: mean time between failures of all nodes together, exponentially distributed; inf: no failures.
        limit_s: time from the start of training to a planned end, which saves and waits for its checkpoint; inf: none.

    Derivation. The run begins anew, with nothing unsaved, whenever training goes on after an end; so useful time over wall time between
    two such moments is the answer (renewal-reward theorem). Training begins at 0; a failure comes at T, exponential with mean M.
    Without planned ends, save k is taken by s_k = (tau + d) + (k - 1) c with c = max(tau, w) + d, and counts from s_k + w on. Each
    checkpoint that counts before the failure keeps tau of useful time, so the expected useful time is
        tau sum_k P(T > s_k + w) = tau sum_k exp(-(s_k + w) / M) = tau exp(-(tau + d + w) / M) / (1 - exp(-c / M)).
    The wall time is M until the failure and M (exp(R / M) - 1) for a restart that failures begin anew, together M exp(R / M). For
    w <= tau the ratio is (tau / M) exp(-(R + w) / M) / (exp((tau + d) / M) - 1): Daly's complete model, times exp(-w / M).

    A planned end at P (limit_s) comes after n saves, of which the last may just be going on, and x more seconds of training; it waits
    for the last write, saves, waits for its own, and is over at U.
    Where the failure comes later than U, all n tau + x are kept, else as above: the useful time is
        tau sum_{k <= n} exp(-(s_k + w) / M) + x exp(-U / M),
    and the wall time M (1 - exp(-U / M)) + M (exp(R / M) - 1).
    """
    first, cycle = interval_s + stall_s, max(interval_s, write_s) + stall_s
    if math.isinf(limit_s):
        if math.isinf(mtbf_s):
            return interval_s / cycle
        kept = math.exp(-(first + write_s) / mtbf_s) / -math.expm1(-cycle / mtbf_s)
        return interval_s / mtbf_s * kept * math.exp(-restart_s / mtbf_s)
    saves = max(1, math.ceil((limit_s - first - interval_s) / cycle) + 1) if limit_s > interval_s else 0
    last = first + (saves - 1) * cycle if saves else 0.0
    rest = max(0.0, limit_s - last)
    end = last + max(rest, write_s if saves else 0.0) + stall_s + write_s
    if math.isinf(mtbf_s):
        return (saves * interval_s + rest) / (restart_s + end)
    kept = math.exp(-(first + write_s) / mtbf_s) * math.expm1(-saves * cycle / mtbf_s) / math.expm1(-cycle / mtbf_s)
    useful = interval_s * kept + rest * math.exp(-end / mtbf_s)
    # Both sides times exp(-R / M), which cannot overflow.
    return useful * math.exp(-restart_s / mtbf_s) / (mtbf_s * -math.expm1(-(restart_s + end) / mtbf_s))


def best_interval(stall_s: float, write_s: float, restart_s: float, mtbf_s: float, limit_s: float = math.inf) -> float:
    """Returns the training between two saves that makes `expected_efficiency` largest; inf where nothing fails.

    Searched on a logarithmic grid that narrows around its best point, because planned ends make the curve a sawtooth. Without them the
    optimum does not depend on restart_s, nor on write_s as long as it is shorter: every failure pays both, however often one saves.

    Args:
        stall_s: time for which the training stands still for a save.
        write_s: time of the background write after that.
        restart_s: time from the end of an attempt until training goes on.
        mtbf_s: mean time between failures of all nodes together.
        limit_s: time from the start of training to a planned end; inf: none.
    """
    if math.isinf(mtbf_s):
        return math.inf
    # Below write_s the saves wait for each other; above M the loss to failures outweighs any stall.
    low, high = max(write_s, 1e-3 * young(stall_s, mtbf_s), 1e-6 * mtbf_s), mtbf_s
    if low >= high:
        return low
    points = 200
    for _ in range(6):
        ratio = (high / low) ** (1 / points)
        grid = [low * ratio**i for i in range(points + 1)]
        best = max(grid, key=lambda tau: expected_efficiency(tau, stall_s, write_s, restart_s, mtbf_s, limit_s))
        low, high = max(low, best / ratio), min(high, best * ratio)
        if high / low < 1 + 1e-6:
            break
    return best
