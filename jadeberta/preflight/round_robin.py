"""Round-robin schedule: every host is paired with every other once, with as many pairs as possible in each round. Pure functions."""

Round = list[tuple[int, int]]
"""Pairs of host numbers that are measured at the same time."""


def rounds(hosts: int) -> list[Round]:
    """Returns rounds of pairs of host numbers: n - 1 rounds for an even number n of hosts, n rounds for an odd one.

    Circle method: one host stays, the others move on by one position after each round. In the first k rounds a host has k different
    partners, so a schedule that is cut short has still measured every host with several others.
    """
    if hosts < 2:
        return []
    positions: list[int | None] = [*range(hosts), *([None] if hosts % 2 else [])]
    half = len(positions) // 2
    schedule = []
    for _ in range(len(positions) - 1):
        facing = zip(positions[:half], reversed(positions[half:]), strict=True)
        schedule.append([(min(a, b), max(a, b)) for a, b in facing if a is not None and b is not None])
        positions = [positions[0], positions[-1], *positions[1:-1]]
    return schedule


def repeat_rounds(schedule: list[Round], suspects: set[int], most: int) -> list[Round]:
    """Returns rounds with the pairs of suspected hosts only, so that no other pair shares the network with them.

    Args:
        schedule: a full schedule.
        suspects: host numbers.
        most: rounds; a few partners are enough to clear a host.
    """
    among = [[pair for pair in each if suspects & set(pair)] for each in schedule]
    return [pairs for pairs in among if pairs][:most]
