"""The runs of a race: which there are, and the recipe of each, with the FLOPs that its budget gives it."""

import json
from dataclasses import dataclass, field, replace

from jadeberta.config import Recipe, load_recipe
from jadeberta.config.validate import validate
from jadeberta.errors import ConfigError
from jadeberta.plan.training_flops import flops_and_tokens
from jadeberta.race.race_file import Changes, Race, grid_of

EVALUATIONS = 10
"""Evaluations of a run, the last one at its end."""


@dataclass(frozen=True)
class Run:
    """One run of a race."""

    size: str
    contestant: str
    stage: str
    """tune: one setting of the grid, judged on the tuning rows; final: the best setting, judged on the test rows."""
    budget: float
    """Share of the target's FLOPs."""
    seed: int
    number: int = 0
    """Number of the setting in the grid."""
    settings: Changes = field(default_factory=dict, compare=False)
    """Values of the grid's keys."""

    @property
    def name(self) -> str:
        """Path of the run below the race's directory."""
        end = f"tune-{self.number}" if self.stage == "tune" else f"final-{self.budget:g}-seed{self.seed}"
        return f"runs/{self.size}/{self.contestant}/{end}"


def tune_runs(race: Race) -> list[Run]:
    """Returns the runs that choose each contestant's settings: all with the first seed and the same budget."""
    return [
        Run(size, contestant, "tune", race.tune_budget, race.seeds[0], number, settings)
        for size in race.sizes
        for contestant in race.contestants
        for number, settings in enumerate(grid_of(race, contestant))
    ]


def final_runs(race: Race, chosen: dict[tuple[str, str], Run], accuracies: dict[tuple[str, str], float]) -> list[Run]:
    """Returns the runs that are judged: every budget for each contestant, every seed for the target and the finalists.

    Args:
        race: the race.
        chosen: best run of the grid by (size, contestant).
        accuracies: its accuracy on the tuning rows; the finalists of a size are the best by it.
    """
    runs = []
    for size in race.sizes:
        others = [name for name in race.contestants if name != race.target]
        best = sorted(others, key=lambda name: -accuracies[size, name])[: race.finalists or len(others)]
        for name in race.contestants:
            setting = chosen[size, name]
            seeds = race.seeds if name == race.target or name in best else race.seeds[:1]
            # The target has the whole budget alone: that is what the others are to reach.
            budgets = [1.0] if name == race.target else race.budgets
            runs += [
                Run(size, name, "final", budget, seed, setting.number, setting.settings) for budget in budgets for seed in seeds
            ]
    return runs


def target_flops(race: Race, size: str, overrides: tuple[str, ...], row_length: int) -> float:
    """Returns the FLOPs of the target's whole budget at a size; arguments as for `recipe_of`."""
    recipe = _changed(race, race.sizes[size] | race.contestants[race.target], overrides)
    return flops_and_tokens(recipe, row_length)[0]


def recipe_of(
    race: Race, run: Run, goal: float, overrides: tuple[str, ...], run_dir: str, row_length: int, tune_rows: int
) -> Recipe:
    """Returns the recipe of a run: the base with the changes of size, contestant and setting, and with steps for its budget.

    Args:
        race: the race.
        run: one of its runs.
        goal: FLOPs of the target, see `target_flops`.
        overrides: options that hold for all runs.
        run_dir: of the run.
        row_length: tokens in a row where the recipe does not name them.
        tune_rows: held-out rows of each corpus that are evaluated during the training.

    Raises:
        ConfigError: the changes contradict each other, or the budget is less than a step.
    """
    changes = race.sizes[run.size] | race.contestants[run.contestant] | run.settings
    recipe = _changed(race, changes, overrides)
    if recipe.training.objective != "mlm":
        raise ConfigError(
            f"{run.name}: training.objective is {recipe.training.objective}, and a race is judged by masked accuracy, which a "
            "discriminator does not have. Compare it by fine-tuning ('jadeberta finetune')."
        )
    own, _ = flops_and_tokens(recipe, row_length)
    scaled = scale_steps(recipe, run.budget * goal / own)
    scaled.run.dir, scaled.training.seed = run_dir, run.seed
    scaled.checkpoint.keep_last, scaled.checkpoint.keep_every = 1, 0
    scaled.checkpoint.every_steps = max(1, scaled.training.max_steps // 4)
    scaled.evaluation.every_steps = max(1, scaled.training.max_steps // EVALUATIONS)
    scaled.evaluation.sequences = tune_rows
    try:
        validate(scaled)
    except ConfigError as e:
        raise ConfigError(f"{run.name}: {e}") from e
    return scaled


def scale_steps(recipe: Recipe, factor: float) -> Recipe:
    """Returns a recipe whose run, warm-ups, decays and phases are all longer by a factor.

    Raises:
        ConfigError: nothing is left of the run or of a phase.
    """
    training = recipe.training

    def scaled(steps: int) -> int:
        return round(steps * factor)

    phases = [
        replace(
            phase,
            steps=scaled(phase.steps),
            warmup_steps=None if phase.warmup_steps is None else scaled(phase.warmup_steps),
            decay_steps=None if phase.decay_steps is None else scaled(phase.decay_steps),
        )
        for phase in recipe.phases
    ]
    steps = sum(phase.steps for phase in phases) if phases else scaled(training.max_steps)
    if steps < 1 or any(phase.steps < 1 for phase in phases):
        raise ConfigError(f"{factor:.3g} of {training.max_steps} steps leaves none to train; give the race a larger budget.")
    changed = replace(
        training,
        max_steps=steps,
        warmup_steps=scaled(training.warmup_steps),
        decay_steps=scaled(training.decay_steps),
        batch_size_warmup=[[size, scaled(count)] for size, count in training.batch_size_warmup if scaled(count)],
    )
    return replace(
        recipe,
        training=changed,
        phases=phases,
        run=replace(recipe.run),
        checkpoint=replace(recipe.checkpoint),
        evaluation=replace(recipe.evaluation),
    )


def _changed(race: Race, changes: Changes, overrides: tuple[str, ...]) -> Recipe:
    options = [text for key, value in changes.items() for text in (f"--{key}", _option(value))]
    return load_recipe(race.base, (*overrides, *options))


def _option(value: object) -> str:
    """Returns a value as the command line writes it."""
    return value if isinstance(value, str) else json.dumps(value)
