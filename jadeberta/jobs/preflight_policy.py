"""What the verdict of a preflight means for the job that ran it: a pure function."""

from dataclasses import dataclass
from typing import Any, Literal

from jadeberta.config import Recipe
from jadeberta.config.phases import require_divisible
from jadeberta.errors import ConfigError


@dataclass(frozen=True)
class Fitness:
    """How the job goes on after its preflight."""

    action: Literal["go", "without", "requeue"]
    """go: as it is; without: in the same allocation, without some hosts; requeue: on other hosts."""
    reason: str
    """A sentence for the log."""
    hosts: tuple[str, ...] = ()
    """Unfit hosts."""
    ranks: int = 0
    """Ranks that remain without the unfit hosts."""
    micro_batch_size: int = 0
    """The largest micro-batch with which the remaining ranks make the same global batch."""
    status: int | None = None
    """Exit status of the job where no other host would help; None otherwise."""


def judge_fitness(verdict: dict[str, Any] | None, hosts: list[str], tasks: int, recipe: Recipe) -> Fitness:
    """Decides whether a job trains as it is, without some of its hosts, or not on these hosts.

    Args:
        verdict: content of preflight.json; None where the preflight reached no verdict.
        hosts: hosts of the job, by Slurm's names.
        tasks: ranks on each host.
        recipe: its batch sizes and `cluster.drop_hosts` are read.
    """
    if verdict is None:
        # The preflight itself may have failed; that is no proof against the hosts, and the watchdog still guards the run.
        return Fitness("go", "the preflight reached no verdict; training starts unchecked.")
    if verdict.get("fit") is True:
        return Fitness("go", "the preflight found nothing wrong.")
    if common := [str(fault) for fault in verdict.get("common") or []]:
        # A fault of no single host, such as a wrong recipe: other hosts would fail as well.
        return Fitness("requeue", f"not fit to train: {'; '.join(common)}", status=ConfigError.exit_status)
    found = {str(host): reasons for host, reasons in (verdict.get("unfit") or {}).items()}
    # Slurm may name a host without its domain.
    unfit = tuple(host for host in hosts if host in found or host.split(".")[0] in {name.split(".")[0] for name in found})
    why = "; ".join(f"{host}: {', '.join(map(str, reasons))}" for host, reasons in found.items()) or "no host is named"
    if not unfit:
        return Fitness("go", f"the preflight failed ({why}), but names no host of this job.")
    ranks = (len(hosts) - len(unfit)) * tasks
    micro_batch_size = fitting_micro_batch(recipe.training.batch_sizes.common, recipe.training.micro_batch_size, ranks)
    if recipe.phases:
        micro_batch_size = recipe.training.micro_batch_size if _phases_divide(recipe, ranks) else 0
    if len(unfit) <= recipe.cluster.drop_hosts and micro_batch_size:
        return Fitness("without", f"goes on without {', '.join(unfit)} on {ranks} ranks. {why}", unfit, ranks, micro_batch_size)
    return Fitness("requeue", f"cannot go on with {', '.join(unfit)}, nor without. {why}", unfit)


def _phases_divide(recipe: Recipe, ranks: int) -> bool:
    """Whether every phase divides over some ranks as it is: a phase's own micro-batch cannot be changed by an option."""
    try:
        return ranks > 0 and bool(require_divisible(recipe, ranks))
    except ConfigError:
        return False


def fitting_micro_batch(batch: int, micro_batch_size: int, ranks: int) -> int:
    """Returns the largest micro-batch up to `micro_batch_size` that divides a batch over the ranks; 0 where none does.

    Args:
        batch: sequences of a global batch, or the greatest common divisor of several.
        micro_batch_size: upper limit, sequences.
        ranks: world size.
    """
    if ranks < 1 or batch % ranks:
        return 0
    return max(size for size in range(1, micro_batch_size + 1) if batch // ranks % size == 0)
