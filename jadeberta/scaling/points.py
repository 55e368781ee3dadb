"""The runs of a scaling test. Pure functions from sizes and a recipe to points and their recipes."""

from dataclasses import dataclass
from typing import Literal

from jadeberta.config import Recipe, accumulation_steps
from jadeberta.config.phase_config import PhaseConfig
from jadeberta.config.phases import phases_of, recipe_in
from jadeberta.errors import ConfigError
from jadeberta.plan.world_sizes import zero_of

Mode = Literal["strong", "weak"]
MODES: tuple[Mode, ...] = ("strong", "weak")
STAGES = (1, 2, 3)


@dataclass(frozen=True)
class Point:
    """One run of a scaling test; series that contain the same sizes share it."""

    zero: int
    nodes: int
    gpus_per_node: int
    micro_batch_size: int
    global_batch_size: int

    @property
    def ranks(self) -> int:
        return self.nodes * self.gpus_per_node

    @property
    def accumulation(self) -> int:
        return self.global_batch_size // (self.ranks * self.micro_batch_size)

    @property
    def name(self) -> str:
        """Name of the point and of its directory."""
        size = f"{self.nodes}x{self.gpus_per_node}"
        return f"zero{self.zero}-{size}-micro{self.micro_batch_size}-batch{self.global_batch_size}"


@dataclass(frozen=True)
class Series:
    """Points that are compared with the smallest of them."""

    mode: Mode
    """strong: the same global batch at every size; weak: the same batch per GPU."""
    zero: int
    micro_batch_size: int
    points: tuple[Point, ...]
    """Smallest first."""


def lay_out(
    global_batch_size: int, nodes: list[int], gpus_per_node: int, modes: list[Mode], stages: list[int], micro_batches: list[int]
) -> list[Series]:
    """Lays out the series of a scaling test.

    Args:
        global_batch_size: of the recipe; weak series have it at the smallest size and in proportion at the others.
        nodes: sizes.
        gpus_per_node: ranks of a node.
        modes: strong, weak or both.
        stages: of ZeRO.
        micro_batches: sequences of a micro-batch; each combination of mode, stage and micro-batch is one series.

    Raises:
        ConfigError: a batch does not divide; names the sizes that fit.
    """
    sizes = sorted(set(nodes))
    result = []
    for mode in dict.fromkeys(modes):
        for zero in dict.fromkeys(stages):
            for micro_batch_size in dict.fromkeys(micro_batches):
                points = []
                for size in sizes:
                    # An integer at every size if it is one at the smallest size, which comes first.
                    batch = global_batch_size if mode == "strong" else global_batch_size * size // sizes[0]
                    try:
                        accumulation_steps(batch, micro_batch_size, size * gpus_per_node)
                    except ConfigError as e:
                        raise ConfigError(f"{mode} scaling on {size} nodes: {e}") from e
                    points.append(Point(zero, size, gpus_per_node, micro_batch_size, batch))
                result.append(Series(mode, zero, micro_batch_size, tuple(points)))
    return result


def points_of(series: list[Series]) -> list[Point]:
    """Returns each point once, smallest first."""
    return sorted({p for each in series for p in each.points}, key=lambda p: (p.ranks, p.name))


def merge(before: list[Series], added: list[Series]) -> list[Series]:
    """Merges the series of a continued test: series of the same mode, stage and micro-batch become one.

    Raises:
        ConfigError: their batches do not belong together.
    """
    result = {(s.mode, s.zero, s.micro_batch_size): s for s in before}
    for series in added:
        key = (series.mode, series.zero, series.micro_batch_size)
        had = result[key].points if key in result else ()
        points = tuple(sorted({*had, *series.points}, key=lambda p: p.ranks))
        batches = {p.global_batch_size / (p.ranks if series.mode == "weak" else 1) for p in points}
        if len(batches) > 1:
            of = "a rank" if series.mode == "weak" else "a step"
            found = " and ".join(f"{batch:g}" for batch in sorted(batches))
            raise ConfigError(
                f"the {series.mode} series would have {found} sequences {of}. Name another --out for the other one."
            )
        result[key] = Series(*key, points)
    return list(result.values())


def recipe_of(recipe: Recipe, point: Point, run_dir: str, steps: int) -> Recipe:
    """Returns the recipe of a point: that of the test with the point's sizes, few steps, one save and timed communication.

    Args:
        recipe: of the test.
        point: sizes.
        run_dir: of the point.
        steps: to train.
    """
    first = phases_of(recipe)[0]  # of a recipe with phases, the test is of the first one
    result = recipe_in(recipe, first)
    if first.sequence_length is not None:
        result.phases = [PhaseConfig(steps=steps, sequence_length=first.sequence_length)]
    result.run.dir, result.run.max_hours = run_dir, 0.0
    training = result.training
    training.global_batch_size, training.micro_batch_size = point.global_batch_size, point.micro_batch_size
    training.batch_size_warmup, training.decay_steps = [], 0  # every step must have the size of the point
    training.max_steps, training.warmup_steps = steps, min(training.warmup_steps, steps)
    if point.zero != zero_of(recipe)[0]:
        result.deepspeed = f"ds_configs/zero{point.zero}.json"
    # One save after the last step, no evaluation and no sinks: nothing may disturb the steps that are measured.
    result.checkpoint.every_steps, result.checkpoint.keep_last, result.checkpoint.keep_every = steps, 1, 0
    result.evaluation.every_steps = 0
    result.logging.sinks, result.logging.communication = [], True
    return result
