"""Which runs a scaling test is made of. Pure functions: sizes and a recipe in, points and their recipes out."""

import json
from copy import deepcopy
from dataclasses import dataclass
from typing import Literal

from jadeberta.config import Recipe, accumulation_steps, resolve_file
from jadeberta.errors import ConfigError

Mode = Literal["strong", "weak"]
MODES: tuple[Mode, ...] = ("strong", "weak")
STAGES = (1, 2, 3)


@dataclass(frozen=True)
class Point:
    """One run. Two series that meet in a size share it."""

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
        """Also of its directory."""
        size = f"{self.nodes}x{self.gpus_per_node}"
        return f"zero{self.zero}-{size}-micro{self.micro_batch_size}-batch{self.global_batch_size}"


@dataclass(frozen=True)
class Series:
    """Points that are compared with the smallest of them."""

    mode: Mode
    """strong: the same global batch at every size; weak: the same batch a GPU."""
    zero: int
    micro_batch_size: int
    points: tuple[Point, ...]
    """Smallest first."""


def lay_out(
    global_batch_size: int, nodes: list[int], gpus_per_node: int, modes: list[Mode], stages: list[int], micro_batches: list[int]
) -> list[Series]:
    """The series of a scaling test.

    Args:
        global_batch_size: of the recipe; weak series have it at the smallest size and in proportion at the others.
        nodes: the sizes.
        gpus_per_node: ranks of a node.
        modes, stages, micro_batches: one series for each combination.

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
                    batch, left = global_batch_size, 0
                    if mode == "weak":
                        batch, left = divmod(global_batch_size * size, sizes[0])
                    if left:
                        raise ConfigError(
                            f"training.global_batch_size {global_batch_size} on {sizes[0]} nodes is not a whole number on {size}, "
                            "and a weak series needs one. Choose sizes that are multiples of the smallest."
                        )
                    try:
                        accumulation_steps(batch, micro_batch_size, size * gpus_per_node)
                    except ConfigError as e:
                        raise ConfigError(f"{mode} scaling on {size} nodes: {e}") from e
                    points.append(Point(zero, size, gpus_per_node, micro_batch_size, batch))
                result.append(Series(mode, zero, micro_batch_size, tuple(points)))
    return result


def points_of(series: list[Series]) -> list[Point]:
    """Each point once, smallest first."""
    return sorted({p for each in series for p in each.points}, key=lambda p: (p.ranks, p.name))


def deepspeed_stage(recipe: Recipe) -> int:
    """ZeRO's stage in the recipe's DeepSpeed file. Raises ConfigError."""
    return int(_deepspeed(recipe).get("zero_optimization", {}).get("stage", 0))


def overlaps(recipe: Recipe) -> bool:
    """Whether DeepSpeed is told to communicate beside the backward pass."""
    return bool(_deepspeed(recipe).get("zero_optimization", {}).get("overlap_comm", False))


def recipe_of(recipe: Recipe, point: Point, run_dir: str, steps: int) -> Recipe:
    """The recipe of one point: that of the test, with the point's sizes, some steps, one save and every second accounted for."""
    result = deepcopy(recipe)
    result.run.dir, result.run.max_hours = run_dir, 0.0
    training = result.training
    training.global_batch_size, training.micro_batch_size = point.global_batch_size, point.micro_batch_size
    training.max_steps, training.warmup_steps = steps, min(training.warmup_steps, steps)
    if point.zero != deepspeed_stage(recipe):
        result.deepspeed = f"ds_configs/zero{point.zero}.json"
    result.checkpoint.every_steps, result.checkpoint.keep_last, result.checkpoint.keep_every = steps, 1, 0
    result.evaluation.every_steps = 0
    result.logging.tensorboard, result.logging.communication = False, True
    return result


def _deepspeed(recipe: Recipe) -> dict:
    path = resolve_file(recipe.deepspeed)
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as e:
        raise ConfigError(f"{path}, line {e.lineno}: not JSON ({e.msg}).") from e
