"""The start of a run that has no checkpoint yet: random weights, published ones, or a step of another run. Nothing else is written here."""

import logging

import torch.distributed as dist

from jadeberta.checkpoint.restore import CheckpointLoader
from jadeberta.config.lineage import identity
from jadeberta.errors import CheckpointError
from jadeberta.training.run_context import RunContext
from jadeberta.training.run_state import RunState

logger = logging.getLogger(__name__)


def start_run(context: RunContext, loader: CheckpointLoader) -> RunState:
    """Brings the engine to where the run starts, and returns the counters there; every rank calls it.

    Raises:
        CheckpointError: the ranks have read different sources, or the checkpoint to branch from cannot be trusted; on every rank.
    """
    start = context.start
    _require_one_start(context, loader)
    if start.branch is not None:
        faults: list[str] = []
        state = loader.branch_off(start.branch, faults.append)
        if state is None:
            raise CheckpointError(f"{faults[0]} The run cannot branch from it; name another step with --branch-from.")
        context.record("branch", step=state.step, checkpoint=str(start.branch), seconds=loader.seconds)
        logger.info("branched from %s in %.1f s", start.branch, loader.seconds)
        return state
    if start.weights:
        loader.engine.load_weights(start.weights)
        start.weights.clear()
        logger.info("started from the weights of %s", start.lineage[-1]["source"])
    return RunState()


def _require_one_start(context: RunContext, loader: CheckpointLoader) -> None:
    """Raises CheckpointError, on every rank, where the ranks do not start alike: one may have seen an older state of a shared directory."""
    start, found = context.start, [None] * context.process.world_size
    own = (bool(start.weights), start.branch is not None, [identity(entry) for entry in start.lineage])
    dist.all_gather_object(found, own, group=loader.group)
    if odd := [rank for rank, other in enumerate(found) if other != found[0]]:
        raise CheckpointError(
            f"{context.run_dir}: rank {odd[0]} would start from something else than rank 0; the source or the run directory has just "
            "changed, or a host sees an old state of it. Start again."
        )
