"""What the verdict of a preflight means for the job that asked for it: a pure function."""

from dataclasses import dataclass
from typing import Any, Literal

from jadeberta.config import Recipe
from jadeberta.errors import ConfigError


@dataclass(frozen=True)
class Fitness:
    """How the job goes on."""

    action: Literal["go", "without", "requeue"]
    """go: as it is; without: in the same allocation without some hosts; requeue: not on these hosts."""
    reason: str
    """A sentence for the log."""
    hosts: tuple[str, ...] = ()
    """Unfit."""
    ranks: int = 0
    """That remain."""
    micro_batch_size: int = 0
    """That fits them."""
    status: int | None = None
    """That the job ends with where another life would not help."""


def judge_fitness(verdict: dict[str, Any] | None, hosts: list[str], tasks: int, recipe: Recipe) -> Fitness:
    """Go on, go on without some hosts, or not at all.

    Args:
        verdict: preflight.json; None where the preflight came to none.
        hosts: of the job, by Slurm's names.
        tasks: ranks on each.
        recipe: its batch, and how many hosts it may do without (`cluster.drop_hosts`).
    """
    if verdict is None:
        return Fitness("go", "the preflight came to no verdict; training starts unchecked.")
    if verdict.get("fit") is True:
        return Fitness("go", "the preflight found nothing wrong.")
    if common := [str(fault) for fault in verdict.get("common") or []]:
        return Fitness("requeue", f"not fit to train: {'; '.join(common)}", status=ConfigError.exit_status)
    found = {str(host): reasons for host, reasons in (verdict.get("unfit") or {}).items()}
    unfit = tuple(host for host in hosts if host in found or host.split(".")[0] in {name.split(".")[0] for name in found})
    why = "; ".join(f"{host}: {', '.join(map(str, reasons))}" for host, reasons in found.items()) or "no host is named"
    if not unfit:
        return Fitness("go", f"the preflight is not content ({why}), but names no host of this job.")
    ranks = (len(hosts) - len(unfit)) * tasks
    micro_batch_size = fitting_micro_batch(recipe.training.batch_sizes.common, recipe.training.micro_batch_size, ranks)
    if len(unfit) <= recipe.cluster.drop_hosts and micro_batch_size:
        return Fitness("without", f"goes on without {', '.join(unfit)} on {ranks} ranks. {why}", unfit, ranks, micro_batch_size)
    return Fitness("requeue", f"cannot go on with {', '.join(unfit)}, nor without. {why}", unfit)


def fitting_micro_batch(batch: int, micro_batch_size: int, ranks: int) -> int:
    """The largest micro-batch up to the recipe's that divides a batch, or what divides all batches, over some ranks; 0 where none does."""
    if ranks < 1 or batch % ranks:
        return 0
    return max(size for size in range(1, micro_batch_size + 1) if batch // ranks % size == 0)
