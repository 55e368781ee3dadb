"""What a run will be, in a few lines: for its first log lines and for `--dry-run`."""

from jadeberta.cluster.environment import Process
from jadeberta.config import Recipe
from jadeberta.data.phase_order import PhasedOrder
from jadeberta.data.run_data import RunData


def describe(recipe: Recipe, process: Process, data: RunData, device: str) -> str:
    """The run in a few lines, and a line for each phase where there are several.

    Args:
        recipe: of the run.
        process: of the job.
        data: of the run.
        device: of the ranks, in words.
    """
    shards, attention = data.shards, " and ".join(dict.fromkeys(phase.attention for phase in data.phases))
    # The published one goes without saying.
    optimizer = "" if recipe.training.optimizer == "adamw" else f"{recipe.training.optimizer}, "
    return (
        f"{_steps(recipe, process, data)}\n"
        f"data {shards.directory}: {_corpora(data)} sequences; fingerprint {shards.index.fingerprint[:12]}\n"
        f"model {recipe.model.num_hidden_layers} x {recipe.model.hidden_size}, attention {attention}, "
        f"{recipe.training.precision}, {optimizer}{recipe.deepspeed}; run {recipe.run.dir}\n"
        f"device {device}"
    )


def _steps(recipe: Recipe, process: Process, data: RunData) -> str:
    training = recipe.training
    ranks = f"{process.world_size} ranks ({process.launcher})"
    if recipe.phases:
        lines = [f"{ranks}, {training.max_steps:,} steps in {len(data.phases)} phases"]
        for phase in data.phases:
            lines.append(
                f"  phase {phase.number}: {phase.in_words(process.world_size)}; {_epochs(data, phase.number):.2f} epochs"
            )
        return "\n".join(lines)
    growing = f" (after {training.batch_sizes.warmup_in_words})" if training.batch_size_warmup else ""
    order = data.order
    epochs = (
        _epochs(data, 1) if isinstance(order, PhasedOrder) else training.batch_sizes.before(training.max_steps) / order.epoch_size
    )
    return (
        f"{ranks} x micro-batch {training.micro_batch_size} x accumulation {training.accumulation(process.world_size)} "
        f"= {training.global_batch_size} sequences a step{growing}, {training.max_steps:,} steps, {epochs:.2f} epochs"
    )


def _epochs(data: RunData, number: int) -> float:
    """Epochs of a phase: its samples, by those that the order holds."""
    assert isinstance(data.order, PhasedOrder)
    phase = data.phases[number - 1]
    return phase.global_batch_size * phase.steps / data.order.draws[number - 1].epoch_size


def _corpora(data: RunData) -> str:
    """Rows of each corpus in each length, and how they are mixed run-wide."""
    weights = {} if len(data.phases) > 1 else data.phases[0].weights
    lengths = []
    for length, reader in data.readers.items():
        mixed = [
            f"{name} {len(rows):,} x{data.repeats[name]}"
            if not weights
            else f"{name} {len(rows):,} with weight {weights.get(name, 0):g}"
            for name, rows in reader.corpora.items()
        ]
        lengths.append(", ".join(mixed) + (f" of {length}" if len(data.readers) > 1 else ""))
    return "; ".join(lengths)
