"""What a race of small models says about the days of a large run: its share of the target's FLOPs, marked as what it is."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from jadeberta.errors import ConfigError, InputError
from jadeberta.plan.plan_figures import Figure
from jadeberta.plan.run_costs import Span
from jadeberta.utils.paths import find_recipe

GROUP = "By a race of small models"


@dataclass(frozen=True)
class SizeShare:
    """What a contestant needed at one size of the race."""

    size: str
    share: float
    """Of the target's FLOPs, until it had the target's held-out accuracy."""
    is_bound: bool
    """Whether its smallest budget was enough, so that `share` is the most that it needs."""
    low: float
    high: float
    """95% interval; where an end lies beyond the budgets, `share` itself."""

    def in_words(self) -> str:
        """Returns the share as a percentage, with the size."""
        return f"{'at most ' * self.is_bound}{100 * self.share:.0f}% at {self.size}"


@dataclass(frozen=True)
class RaceShares:
    """A contestant of a race, at every size at which it reached the target."""

    file: Path
    contestant: str
    target_recipe: Path
    """The recipe from which the race's small models were made."""
    sizes: tuple[SizeShare, ...]
    """In the order of the race file, smallest model first."""


def read_race_shares(file: Path, contestant: str) -> RaceShares:
    """Reads a report of `jadeberta race report` or `bench/race.py`.

    Args:
        file: its JSON.
        contestant: name in the race.

    Raises:
        InputError: the file cannot be read, or is no such report.
        ConfigError: the race has no such contestant, it reached the target at no size, or the race's recipe is not here.
    """
    try:
        found: Any = orjson.loads(file.read_bytes())
        base, results = str(found["base"]), list(found["results"])
        names = dict.fromkeys(str(result["contestant"]) for result in results)
        of_it = [result for result in results if result["contestant"] == contestant]
        sizes = tuple(_size_share(result) for result in of_it if result["share"] is not None)
    except OSError as e:
        raise InputError(f"{file}: {e.strerror}. Name the report.json of 'jadeberta race report'.") from e
    except (ValueError, KeyError, TypeError) as e:
        raise InputError(f"{file}: this is no report of a race. Name the report.json of 'jadeberta race report'.") from e
    if contestant not in names:
        raise ConfigError(f"--contestant {contestant}: {file} has {', '.join(names)}.")
    if not sizes:
        raise ConfigError(f"--contestant {contestant}: in {file} it reached the target's accuracy at no size.")
    return RaceShares(file, contestant, find_recipe(base), sizes)


def _size_share(result: dict[str, Any]) -> SizeShare:
    share = float(result["share"])
    if not 0 < share < float("inf"):
        raise ValueError("a share is above 0")
    low, high = (share if end is None else float(end) for end in result["interval"])
    return SizeShare(str(result["size"]), share, bool(result["is_bound"]), min(low, share), max(high, share))


def race_figures(shares: RaceShares, target_flops: float, flops: float, days: Span) -> list[Figure]:
    """Returns what the race says of this run as figures of a plan.

    Args:
        shares: of the contestant whose settings the recipe has.
        target_flops: of the target's recipe at full size.
        flops: of the recipe that is planned.
        days: that it takes.
    """
    of_target = flops / target_flops
    largest = shares.sizes[-1]
    each = "; ".join(size.in_words() for size in shares.sizes)
    mark = "not measured at this size: shares change with the model and with the number of tokens"
    span = Span(*(part / of_target * share for part, share in zip(
        (days.value, days.low, days.high), (largest.share, largest.low, largest.high), strict=True)
    ))  # fmt: skip
    source = f"{shares.file}, contestant {shares.contestant}: {each}"
    return [
        Figure(
            "flops_of_target", GROUP, f"work of the run, of that of {shares.target_recipe.name}", of_target, "",
            f"{100 * of_target:.0f}%", f"{flops:.3g} / {target_flops:.3g} FLOP", "both recipes",
        ),
        Figure(
            "race_days", GROUP, f"days to the accuracy of {shares.target_recipe.name}", span.value, "days",
            f"{'at most ' * largest.is_bound}{span.value:.1f} days ({span.low:.1f} to {span.high:.1f}), predicted; {mark}",
            f"days of the plan / {of_target:.3g} x the race's share at its largest size ({largest.size})", source, span.low, span.high,
        ),
    ]  # fmt: skip
