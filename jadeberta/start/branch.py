"""A branch: a run of its own that goes on from a step of another run, with weights, optimizer, counters and place in the data.

States what the branch may change and what it must keep. Reads the other run's checkpoint and writes nothing there.
"""

from pathlib import Path
from typing import Any

from jadeberta.checkpoint.compatibility import BEFORE_THE_KEY, expected_of, lost_places, refuse_begun_decay, state_fault
from jadeberta.checkpoint.manifest import MANIFEST_NAME, list_checkpoints, verify
from jadeberta.checkpoint.phase_settings import changed_phase, has_phases, without_phases
from jadeberta.checkpoint.state_dict import read_state
from jadeberta.config import Recipe
from jadeberta.config.init_from import DEFAULTS, UNUSED
from jadeberta.config.lineage import Entry, Lineage, lineage_in
from jadeberta.errors import CheckpointError, ConfigError
from jadeberta.evaluation.mlm import resolve_checkpoint
from jadeberta.shards import ShardReader
from jadeberta.utils.files import file_sha256

KEPT = ("training.global_batch_size", "training.batch_size_warmup", "training.optimizer")
"""Keys that a branch must keep beside the model's: from the first two and the step follows the place in the data, and each optimizer
has moments of its own."""
FREE_OF_THE_MODEL = ("model.hidden_dropout_prob", "model.attention_probs_dropout_prob")


def branch_entry(
    recipe: Recipe, shards: ShardReader, repeats: dict[str, int], given: Path, before: Entry | None = None
) -> Lineage:
    """Checks that a run can branch from a checkpoint; returns the lineage of the run, its new entry last.

    Args:
        recipe: of the branch.
        shards: the training split.
        repeats: of each corpus in an epoch.
        given: a checkpoint, or a run directory: its newest valid checkpoint.
        before: the entry that an earlier attempt of the branch has recorded.

    Raises:
        CheckpointError: the checkpoint is damaged, or gone.
        ConfigError: the recipe changes what a branch must keep.
    """
    directory = _resolve(given, recipe)
    state = read_state(directory)
    lineage = lineage_in(state, directory)
    if recipe.model.init_from and not any(entry["kind"] == "init" for entry in lineage):
        raise ConfigError(
            f"model.init_from {recipe.model.init_from} and --branch-from {given} contradict each other: the weights come from one of them. "
            "Leave one out."
        )
    changed = _changes(recipe, shards, repeats, directory, state)
    entry = {
        "kind": "branch",
        "source": str(directory.absolute()),
        "given": before["given"] if before else str(given.absolute()),
        "manifest_sha256": file_sha256(directory / MANIFEST_NAME),
        **{key: state[key] for key in ("step", "tokens", "fingerprints")},
        "changed": changed,
        "model": {key: state["recipe"]["model"][key] for key in (*DEFAULTS, *UNUSED) if key in state["recipe"]["model"]},
    }
    return (*lineage, entry)


def _resolve(given: Path, recipe: Recipe) -> Path:
    """The checkpoint to branch from; its bytes are hashed again while they are read into the engine."""
    run_dir = Path(recipe.run.dir).absolute()
    if not given.exists():
        raise CheckpointError(f"--branch-from {given}: no such directory. Name a checkpoint, or a run with checkpoints.")
    if list_checkpoints(given / "checkpoints") or list_checkpoints(given):
        directory = resolve_checkpoint(given)
    else:
        directory = given
        if not (directory / MANIFEST_NAME).is_file():
            raise CheckpointError(
                f"--branch-from {given}: no checkpoint there; a branch needs the optimizer's state. Start from mere weights with "
                "model.init_from."
            )
        if faults := verify(directory, small_only=True):
            raise CheckpointError(
                f"{faults[0]} Branch from another step; 'jadeberta checkpoint verify' shows which can be trusted."
            )
    if run_dir.resolve() in directory.resolve().parents:
        raise ConfigError(
            f"run.dir {recipe.run.dir}: is the run that --branch-from names. A branch needs a directory of its own."
        )
    if fault := state_fault(directory):
        raise CheckpointError(f"{fault} Branch from another step.")
    return directory


def _changes(
    recipe: Recipe, shards: ShardReader, repeats: dict[str, int], directory: Path, state: dict[str, Any]
) -> dict[str, Any]:
    """What the branch does otherwise, by key, each [before, now]; raises ConfigError where it must not."""
    now = expected_of(recipe, shards, repeats)
    before, settings = BEFORE_THE_KEY | state["settings"], now["settings"]
    phases = {}
    if fault := lost_places(state, now):
        raise ConfigError(f"phases: {directory}: {fault}. Set them back, or branch from a step before the roll-back.")
    if has_phases(state, now):
        if words := changed_phase(state, now):
            raise ConfigError(
                f"phases: {words} in {directory}; a branch keeps it. Set it back (phases that have not begun may change), or start from "
                "its weights alone with model.init_from."
            )
        pair = [before.get("phases"), settings.get("phases")]
        phases = {"phases": pair} if pair[0] != pair[1] else {}
        before, settings = without_phases(before), without_phases(settings)
    changed = {
        k: [before.get(k), settings.get(k)] for k in sorted(before.keys() | settings.keys()) if before.get(k) != settings.get(k)
    }
    if state["fingerprints"]["tokenizer"] != now["fingerprints"]["tokenizer"]:
        raise ConfigError(
            f"data.shards {shards.directory}: made with another tokenizer than {directory} was trained with "
            f"({now['fingerprints']['tokenizer'][:12]}…, there {state['fingerprints']['tokenizer'][:12]}…). A branch keeps the tokenizer; "
            "model.init_from with model.init_tokenizer: match starts anew with another one."
        )
    if "training.objective" in changed:
        old, new = changed["training.objective"]
        raise ConfigError(
            f"training.objective is {new}, and {old} in {directory}: those are different models. Branch from a run with the same objective."
        )
    for key, (old, new) in changed.items():
        if key in KEPT or (key.startswith(("model.", "rtd.")) and key not in FREE_OF_THE_MODEL):
            raise ConfigError(
                f"{key} is {new}, and {old} in {directory}; a branch keeps it. Set it back, or start from its weights alone with "
                "model.init_from."
            )
        if key == "training.ema_decay" and not old:
            raise ConfigError(
                f"training.ema_decay is {new}, but {directory} holds no average of the weights to go on with. Set it to 0, or branch "
                "from a run that keeps one."
            )
    changed |= phases
    training, was = recipe.training, state["recipe"]["training"]
    if training.max_steps <= state["step"]:
        raise ConfigError(
            f"training.max_steps is {training.max_steps}, and {directory} is at step {state['step']} already; steps count on in a branch. "
            "Raise it."
        )
    refuse_begun_decay(recipe, directory, state)
    free = {f"training.{key}": [was.get(key), getattr(training, key)] for key in ("max_steps", "decay_steps", "precision")}
    changed |= {key: pair for key, pair in free.items() if pair[0] != pair[1]}
    if state["fingerprints"]["shards"] != now["fingerprints"]["shards"]:
        changed["data.shards"] = [state["fingerprints"]["shards"], now["fingerprints"]["shards"]]
    return changed


def require_same_branch(own: Entry, given: Path, run_dir: Path) -> None:
    """Raises ConfigError where --branch-from names something else than what the run has branched from.

    A requeued job gives the option again when the checkpoint may be gone, and the run that it names may have gone on.
    """
    path = given.absolute()
    if str(path) in (own["given"], own["source"]):
        return
    try:
        if file_sha256(path / MANIFEST_NAME) == own["manifest_sha256"]:
            return  # a copy, or another path to it
    except OSError:
        pass
    raise ConfigError(
        f"run.dir {run_dir}: is already a branch of {own['source']}, and --branch-from names {given}. Choose another run.dir, or leave "
        "--branch-from out."
    )
