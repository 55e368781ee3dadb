"""Who is paired with whom: every host meets every other once, and in each round as many as can. Pure functions."""

Round = list[tuple[int, int]]


def rounds(hosts: int) -> list[Round]:
    """Rounds of pairs of host numbers, n - 1 rounds for an even number of hosts and n for an odd one.

    The circle method: one host stays, the others move on by one place after each round. A host's partners in the first k rounds are
    k different ones, so that a tournament that is broken off has still shown every host to several others.
    """
    if hosts < 2:
        return []
    places: list[int | None] = [*range(hosts), *([None] if hosts % 2 else [])]
    half = len(places) // 2
    played = []
    for _ in range(len(places) - 1):
        facing = zip(places[:half], reversed(places[half:]), strict=True)
        played.append([(min(a, b), max(a, b)) for a, b in facing if a is not None and b is not None])
        places = [places[0], places[-1], *places[1:-1]]
    return played


def second_look(played: list[Round], suspects: set[int], most: int) -> list[Round]:
    """Rounds in which each suspect meets others alone, without pairs beside it that are not in question.

    Args:
        played: a whole tournament.
        suspects: numbers of hosts.
        most: rounds; a few partners are enough to clear a host.
    """
    among = [[pair for pair in each if suspects & set(pair)] for each in played]
    return [pairs for pairs in among if pairs][:most]
