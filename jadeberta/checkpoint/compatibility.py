"""What ties a checkpoint to a run: the data, tokenizer and settings that must be the same in every attempt."""

import sys
from collections.abc import Mapping
from dataclasses import asdict
from itertools import chain
from math import isfinite
from pathlib import Path
from typing import Any

from jadeberta.checkpoint.manifest import STATE_NAME, choose, step_of
from jadeberta.checkpoint.phase_settings import has_phases, phase_settings, refuse_changed_phases, without_phases
from jadeberta.checkpoint.state_dict import read_state
from jadeberta.config import Recipe, TrainingConfig
from jadeberta.config.phases import schedule_at
from jadeberta.errors import CheckpointError, ConfigError
from jadeberta.shards import ShardReader
from jadeberta.shards.provenance import provenance_sha256
from jadeberta.shards.tokenizer_format import main_file
from jadeberta.training.lr_schedule import learning_rate
from jadeberta.training.run_state import RunState

FREE_KEYS = {
    "model": {"init_from", "init_tokenizer", "attention"},
    "training": {"micro_batch_size", "max_steps", "decay_steps", "precision", "compile", "deterministic", "recompute"},
}
"""Keys, by section, that may change between the attempts of a run; all other keys of these sections may not."""
NEWER_KEYS = (
    "batch_size_warmup", "z_loss", "ema_decay", "optimizer", "muon_lr", "muon_momentum", "muon_scale", "muon_weight_decay", "lion_beta1",
    "lion_beta2", "objective",
)  # fmt: skip
"""Keys of training that older checkpoints lack; their defaults stand for what was done before there was the key."""
BEFORE_THE_KEY: dict[str, Any] = {
    **{f"training.{key}": getattr(TrainingConfig(), key) for key in NEWER_KEYS},
    "model.initializer_scale_by_depth": False,
}
"""What a checkpoint older than a key did, by key: it still resumes where the recipe asks for the same."""


def binding_settings(recipe: Recipe, repeats: dict[str, int]) -> dict[str, Any]:
    """Returns the settings that a checkpoint belongs to, by full key."""
    values = {
        f"{section}.{k}": v
        for section, free in FREE_KEYS.items()
        for k, v in asdict(getattr(recipe, section)).items()
        if k not in free
    }
    if recipe.training.objective == "rtd":
        values |= {f"rtd.{key}": value for key, value in asdict(recipe.rtd).items()}
        values["rtd.generator_layers"] = recipe.rtd.layers_of_generator(recipe.model.num_hidden_layers)
    values |= {"data.packing": recipe.data.packing} | {f"data.repeats.{name}": n for name, n in repeats.items()}
    # Left out where it is empty: older checkpoints have no such key.
    return values | ({"data.weights": recipe.data.weights} if recipe.data.weights else {})


def expected_of(recipe: Recipe, shards: ShardReader, repeats: dict[str, int]) -> dict[str, Any]:
    """Returns the fingerprints and settings that a checkpoint of this run must have."""
    fingerprints = {"shards": shards.index.fingerprint, "tokenizer": shards.index.tokenizer_sha256}
    settings = binding_settings(recipe, repeats)
    if recipe.phases:
        settings["phases"] = phase_settings(recipe, shards, repeats)
    return {"fingerprints": fingerprints, "settings": settings}


def preview(root: Path, resume: str, expected: dict[str, Any], recipe: Recipe) -> Path | None:
    """Returns the checkpoint that a start would resume from, None for a fresh start; raises the errors of that start.

    Args:
        root: the run's `checkpoints` directory.
        resume: auto, required or never.
        expected: what a checkpoint of this run must have (`expected_of`).
        recipe: of the run.
    """
    return choose(
        root, resume, lambda line: print(line, file=sys.stderr), lambda directory: state_fault(directory, expected, recipe)
    )


def state_fault(directory: Path, expected: dict[str, Any] | None = None, recipe: Recipe | None = None) -> str | None:
    """What is wrong with the state of a checkpoint whose bytes are those of its manifest: anybody can write such a manifest.

    Args:
        directory: the checkpoint.
        expected: what a checkpoint of this run must have (`expected_of`); None: of any run.
        recipe: of the run that goes on from it; None: none does.

    Raises:
        CheckpointError: it is another run's, or its counters contradict each other.
        ConfigError: as for `refuse_begun_decay`.
    """
    path = directory / STATE_NAME
    try:
        state = read_state(directory)
        if state["step"] != step_of(directory):
            return f"{path}: its step is {state['step']}, the manifest says {step_of(directory)}."
        if expected is not None:
            refuse_foreign(directory, state, expected)
        counters = RunState.of(state)
        numbers = [
            counters.step,
            counters.tokens,
            counters.skipped_steps,
            counters.rollbacks,
            *chain(*counters.skipped_ranges, *counters.skipped_samples),
        ]
        if not all(type(n) is int and n >= 0 for n in [*numbers, state["adam_step"]]):
            return f"{path}: damaged, its counters are no whole numbers."
        if not all(isinstance(v, int | float) and isfinite(v) for window in state.get("guard", {}).values() for v in window):
            return f"{path}: damaged, its guard remembers something else than numbers."
        refuse_inconsistent(directory, state)
        if recipe is not None:
            refuse_begun_decay(recipe, directory, state)
    except (CheckpointError, ConfigError):
        raise
    except (OSError, ValueError, KeyError, TypeError, AttributeError, IndexError, OverflowError, ArithmeticError) as e:
        return f"{path}: damaged, not the state of a run ({type(e).__name__}: {e})."
    return None


def refuse_foreign(directory: Path, state: dict[str, Any], expected: dict[str, Any]) -> None:
    """Raises CheckpointError where data, tokenizer or settings of a checkpoint are not those of the run; names both."""
    for what, remedy in (("shards", "data.shards"), ("tokenizer", "data.shards")):
        if state["fingerprints"][what] != expected["fingerprints"][what]:
            raise CheckpointError(
                f"{directory}: made with other {what} (checkpoint {state['fingerprints'][what][:16]}…, this run "
                f"{expected['fingerprints'][what][:16]}…). Set {remedy} to the ones it was made with, or choose another run.dir."
            )
    if fault := lost_places(state, expected):
        raise CheckpointError(f"{directory}: {fault}. Set them back, or choose another run.dir.")
    before, now = BEFORE_THE_KEY | state["settings"], expected["settings"]
    if has_phases(state, expected):
        refuse_changed_phases(directory, state, expected)
        before, now = without_phases(before), without_phases(now)
    differ = [f"{k} {before.get(k)} -> {now.get(k)}" for k in sorted(before.keys() | now.keys()) if before.get(k) != now.get(k)]
    if differ:
        raise CheckpointError(
            f"{directory}: made with another recipe ({'; '.join(differ)}). Set them back, or choose another run.dir."
        )


def lost_places(state: dict[str, Any], expected: dict[str, Any]) -> str | None:
    """Says where a run would lose the samples that it skips, which are places in the order of phases or weights; None where it has one."""
    if state.get("skipped_samples") and not {"phases", "data.weights"} & expected["settings"].keys():
        return "it has rolled back while its recipe had phases or weights, which are gone now"
    return None


def describe_data(
    shards: ShardReader, settings: dict[str, Any], readers: Mapping[int, ShardReader] | None = None
) -> dict[str, Any]:
    """Describes how the shards were made and what is in them, so that a checkpoint has this information without them.

    Args:
        shards: rows of the directory's only or first length.
        settings: of the run.
        readers: by row length, where the run reads several.
    """
    index = shards.index

    def counted(reader: ShardReader) -> dict[str, dict[str, int]]:
        return {
            name: {key: sum(getattr(entry, key) for entry in corpus.train) for key in ("documents", "sequences", "tokens")}
            | {"repeats": settings[f"data.repeats.{name}"]}
            for name, corpus in reader.index.corpora.items()
        }

    keys = ("sequence_length", "vocab_size", "segmenter", "normaliser", "sentence_splitter")
    # Left out at its default, which all shards had before the key existed.
    by_character = {"word_starts": index.word_starts} if index.word_starts != "pieces" else {}
    other = {}
    if index.tokenizer_input:
        main = main_file(index.tokenizer_sha256, index.tokenizer_files)
        other = {"tokenizer_input": index.tokenizer_input, "tokenizer_file": main}
    made_from = provenance_sha256(shards.directory)
    rows = {str(length): counted(reader) for length, reader in (readers or {}).items() if reader is not shards}
    return (
        {key: getattr(index, key) for key in keys}
        | by_character
        | other
        | {"corpora": counted(shards)}
        | ({"corpora_of_length": rows} if rows else {})  # left out of a run of one length, whose checkpoints have no such key
        | ({"provenance_sha256": made_from} if made_from else {})  # older shards have no such file
    )


def refuse_inconsistent(directory: Path, state: dict[str, Any]) -> None:
    """Raises CheckpointError where a checkpoint's counters contradict each other or its own recipe."""
    training = state["recipe"]["training"]
    # A skipped step changes nothing, so it is the only kind of step that the optimizer does not count.
    if state["adam_step"] != state["step"] - state["skipped_steps"]:
        raise CheckpointError(
            f"{directory}: {state['adam_step']} updates at step {state['step']} with {state['skipped_steps']} skipped; "
            "these do not add up. Remove it and go on from an older one."
        )
    within, schedule = schedule_at(training, state["recipe"].get("phases", []), state["step"] - 1)
    # Exactly equal: the same pure function made it. A difference is a damaged counter that no hash of a file would show.
    lr = learning_rate(within, **schedule)
    if lr != state["lr"]:
        raise CheckpointError(
            f"{directory}: its last learning rate was {state['lr']}, its recipe makes it {lr}. Remove it and go on from an older one."
        )


def refuse_begun_decay(recipe: Recipe, directory: Path, state: dict[str, Any]) -> None:
    """Checks that a run may go on from a checkpoint with the schedule of its recipe.

    Args:
        recipe: of the run.
        directory: the checkpoint, its own or another run's.
        state: of the checkpoint.

    Raises:
        ConfigError: by a schedule that the checkpoint does not have, a decay of wsd would have begun before it: the learning rate would
            fall at once by what is past.
    """
    step, before = state["step"], state["recipe"]
    within, schedule = schedule_at(vars(recipe.training), [vars(phase) for phase in recipe.phases], step)
    if schedule["schedule"] != "wsd" or (within, schedule) == schedule_at(before["training"], before.get("phases", []), step):
        return
    decay, left = schedule.get("decay_steps", 0), schedule["max_steps"] - within
    if 0 < left < decay:
        raise ConfigError(
            f"decay_steps is {decay}, but only {left} steps are left from step {step} of {directory} to the end of the schedule: the decay "
            f"would have begun before it, and the rate would fall at once. Raise max_steps by {decay - left}, or set decay_steps to {left} "
            "or less."
        )


def refuse_other_counters(root: Path, state: RunState, ledger: list[dict[str, Any]]) -> None:
    """Raises CheckpointError where the ledger's record of a save has other counters than the checkpoint that a run resumes from."""
    recorded = [row for row in ledger if row.get("event") == "save" and row.get("step") == state.step]
    counters = {"tokens": state.tokens, "skipped_steps": state.skipped_steps}
    # The last record counts: a roll-back may have saved this step before, with other counters.
    if recorded and any(recorded[-1].get(key, value) != value for key, value in counters.items()):
        in_ledger = {key: recorded[-1].get(key) for key in counters}
        raise CheckpointError(
            f"{root}: the checkpoint of step {state.step} has {counters}, the ledger recorded {in_ledger} when it was saved. "
            "One of them is another run's: restore the directory as it was."
        )
