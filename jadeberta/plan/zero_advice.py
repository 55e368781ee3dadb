"""Which stage of ZeRO suits a run, and the largest micro-batch: memory and communication of each stage side by side. Pure functions."""

from bisect import bisect_right
from dataclasses import dataclass
from typing import Any

from jadeberta.config import Recipe
from jadeberta.config.deepspeed_file import overlaps
from jadeberta.config.phases import Phase, batch_sizes_of
from jadeberta.plan.forecast import ClusterShape, Forecast
from jadeberta.plan.gpu_memory import activation_parts, bucket_bytes, state_parts
from jadeberta.plan.optimizer_memory import saved_bytes
from jadeberta.plan.step_time import NO_NETWORK, Network, RankWork, predict, traffic, update_seconds
from jadeberta.training.optimizers.build import WHOLE_PARAMETERS

USABLE = 0.9
"""Share of a GPU's memory that tensors may take. Assumed: the rest is for CUDA's context, NCCL's and DeepSpeed's buffers, and gaps."""
ALIKE = 0.01
"""Difference in step time below which the stage that is simpler is advised."""
STAGES = (1, 2, 3)
MOST_ROWS = 1 << 20
"""Largest micro-batch that is looked for."""


@dataclass(frozen=True)
class ZeroStage:
    """A run under one stage of ZeRO; bytes are those of one GPU."""

    stage: int
    memory: dict[str, int]
    """Bytes by part: weights, gradients, optimizer, buckets, layers, generator, head, attention."""
    sent_bytes: float
    """Payload that the ranks send each other in a step."""
    step_s: float | None
    """Predicted seconds of a step; None where the links are not known."""
    fits: bool | None
    """Whether the recipe's micro-batch fits; None where the GPU's memory is not known."""
    largest_micro_batch: int | None
    """Most rows that fit and divide the batch; 0 where none does, None where the memory is not known."""
    most_rows: int | None
    """Most rows that fit."""
    refused: str = ""
    """Why the recipe cannot use this stage; empty where it can."""

    @property
    def bytes(self) -> int:
        return sum(self.memory.values())


@dataclass(frozen=True)
class ZeroAdvice:
    """The stage to use, and why."""

    recipe_stage: int
    """Stage of the recipe's DeepSpeed file."""
    stage: int | None
    """None where the recipe fits under none."""
    reason: str
    """A sentence."""
    stages: list[ZeroStage]

    @property
    def own(self) -> ZeroStage:
        """The run under the stage of the recipe."""
        return next(stage for stage in self.stages if stage.stage == self.recipe_stage)


def advise(
    recipe: Recipe,
    phase: Phase,
    plan: Forecast,
    cluster: ClusterShape,
    memory: float | None,
    rings: dict[bool, Network] | None,
    zero: dict[str, Any],
) -> ZeroAdvice:
    """Compares the stages of ZeRO.

    Args:
        recipe: of the run.
        phase: the one whose micro-batch takes most, with its row length.
        plan: forecast of the run.
        cluster: nodes and GPUs.
        memory: bytes of a GPU that tensors may take; None where they are not known.
        rings: links within a node (False) and between nodes (True); None where they are not known.
        zero: section `zero_optimization` of the recipe's DeepSpeed file.
    """
    ranks, stage = cluster.gpus, zero["stage"]
    # Another stage would be set up as the project's own files are.
    settings = [zero if each == stage else zero | {"stage": each, "overlap_comm": each == 3} for each in STAGES]
    stages = [_of_stage(recipe, phase, plan, cluster, memory, rings, each) for each in settings]
    can = [each for each in stages if not each.refused]
    fitting = [each for each in can if each.fits is not False]
    if not fitting:
        least = min(can, key=lambda each: each.bytes)
        rows = (
            f"training.micro_batch_size {least.largest_micro_batch} fits"
            if least.largest_micro_batch
            else "not even one row fits"
        )
        reason = (
            f"even ZeRO {least.stage} takes {least.bytes / 1e9:.1f} GB, and {(memory or 0) / 1e9:.1f} GB can be used; {rows}, and "
            "training.recompute layers keeps less"
        )
        return ZeroAdvice(stage, None, reason, stages)
    if ranks == 1:
        reason = "one rank has nobody to share with; this is the simplest stage that fits"
        return ZeroAdvice(stage, fitting[0].stage, reason, stages)
    cost = {each.stage: each.sent_bytes if each.step_s is None else each.step_s for each in fitting}
    least_cost = min(cost.values())
    chosen = next(each for each in fitting if cost[each.stage] <= least_cost * (1 + ALIKE))
    return ZeroAdvice(stage, chosen.stage, _reason(chosen, stages, memory), stages)


def _reason(chosen: ZeroStage, stages: list[ZeroStage], memory: float | None) -> str:
    room = "" if memory is None else f" of {memory / 1e9:.1f} GB that can be used"
    words = [f"it takes {chosen.bytes / 1e9:.1f} GB{room} and sends {chosen.sent_bytes / 1e9:.1f} GB a step"]
    for each in stages:
        if each is chosen:
            continue
        if each.refused:
            words.append(f"ZeRO {each.stage} {each.refused}")
        elif each.fits is False:
            words.append(f"ZeRO {each.stage} takes {each.bytes / 1e9:.1f} GB and does not fit")
        else:
            time = f", {each.step_s:.3f} s a step against {chosen.step_s:.3f} s" if each.step_s and chosen.step_s else ""
            words.append(f"ZeRO {each.stage} takes {each.bytes / 1e9:.1f} GB and sends {each.sent_bytes / 1e9:.1f} GB{time}")
    return "; ".join(words)


def _of_stage(
    recipe: Recipe,
    phase: Phase,
    plan: Forecast,
    cluster: ClusterShape,
    memory: float | None,
    rings: dict[bool, Network] | None,
    settings: dict[str, Any],
) -> ZeroStage:
    """The figures of one stage, which `settings` names; arguments as for `advise`."""
    stage = settings["stage"]
    training, ranks = recipe.training, cluster.gpus
    state = state_parts(plan.parameters, training, stage, ranks, saved_bytes(recipe, plan.parameters))
    state["buckets"] = bucket_bytes(training, stage, settings)
    parts = state | activation_parts(recipe, phase, phase.micro_batch_size)
    accumulation = phase.global_batch_size // (phase.micro_batch_size * ranks)
    sent = traffic(plan.parameters, stage, training.precision, accumulation)
    payload = (sent.reduced + sent.scattered + sent.gathered) * sent.times + sent.gathered_at_end if ranks > 1 else 0.0
    step_s = None
    if rings is not None:
        update = update_seconds(plan.parameters, cluster.device)
        # The plan's speed contains the update, divided over the ranks.
        whole = phase.global_batch_size * (phase.sequence_length or 1) / plan.tokens_per_second
        work = RankWork(max(0.0, whole - update / ranks) / accumulation, accumulation, update)
        network = NO_NETWORK if ranks == 1 else rings[cluster.nodes > 1]
        step_s = predict(work, sent, ranks, network, overlap=overlaps(recipe, settings)).step_s
    refused = ""
    if stage == 3 and training.optimizer in WHOLE_PARAMETERS:
        refused = f"cuts parameters apart, which training.optimizer {training.optimizer} needs whole"
    elif stage == 3 and training.objective == "rtd":
        refused = "cuts the shared embeddings of objective rtd apart"
    if memory is None:
        return ZeroStage(stage, parts, payload, step_s, None, None, None, refused)
    left = memory - sum(state.values())
    most = bisect_right(range(1, MOST_ROWS), left, key=lambda rows: sum(activation_parts(recipe, phase, rows).values()))
    share = batch_sizes_of(recipe, phase).common // ranks
    divides = next((rows for rows in range(min(most, share), 0, -1) if share % rows == 0), 0)
    return ZeroStage(stage, parts, payload, step_s, sum(parts.values()) <= memory, divides, most, refused)
