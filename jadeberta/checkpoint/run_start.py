"""The start of a run that has no checkpoint yet: random weights, published ones, or a step of another run. Nothing else is written here."""

import logging

from jadeberta.checkpoint.restore import CheckpointLoader, on_root
from jadeberta.errors import CheckpointError
from jadeberta.training.run_context import RunContext
from jadeberta.training.run_state import RunState

logger = logging.getLogger(__name__)

KEEPS_THE_LEVEL = {
    "training.max_steps", "training.schedule", "training.warmup_steps", "training.decay_steps", "training.precision", "training.ema_decay",
}  # fmt: skip
"""Keys that a branch may change without moving loss and gradient norm to another level at once."""


def start_run(context: RunContext, loader: CheckpointLoader) -> RunState:
    """Brings the engine to where the run starts, as rank 0 has planned it, and returns the counters there; every rank calls it.

    Raises:
        CheckpointError: the checkpoint to branch from cannot be trusted; on every rank.
    """
    plan = context.start
    # Rank 0 alone has read the source: other hosts may see another state of a shared directory.
    branch, has_weights = on_root(loader.group, lambda: (plan.branch, bool(plan.weights)))
    if branch is not None:
        faults: list[str] = []
        state = loader.branch_off(branch, faults.append)
        if state is None:
            raise CheckpointError(f"{faults[0]} The run cannot branch from it; name another step with --branch-from.")
        if set(on_root(loader.group, lambda: plan.lineage[-1].get("changed", {}))) - KEEPS_THE_LEVEL:
            # Other data or masks have another loss: measured by the old one, every step would be a spike.
            loader.engine.guard.recall({})
        context.record("branch", step=state.step, checkpoint=str(branch), seconds=loader.seconds)
        logger.info("branched from %s in %.1f s", branch, loader.seconds)
        return state
    if has_weights:
        loader.engine.load_weights(plan.weights)
        plan.weights.clear()
        if plan.lineage:
            logger.info("started from the weights of %s", plan.lineage[-1]["source"])
    return RunState()
