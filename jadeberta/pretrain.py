"""`jadeberta pretrain`: puts the parts of a run together and hands them to the loop."""

import os
import time
from pathlib import Path
from typing import Any

import orjson
import torch
import torch.distributed as dist

from jadeberta import config as config_module
from jadeberta.checkpoint.checkpointer import Checkpointer, expected_of, preview
from jadeberta.cluster.environment import Process, detect
from jadeberta.config import Recipe
from jadeberta.data.batches import StepDataset, iterate_steps
from jadeberta.data.masking import Masker, read_word_starts
from jadeberta.data.order import SampleOrder
from jadeberta.errors import ConfigError, NumericsError, RequeueWanted, StopAsked
from jadeberta.shards import DirectoryLock, ShardError, ShardReader, file_sha256
from jadeberta.shards import open as open_shards
from jadeberta.training.control import Control
from jadeberta.training.engine import (
    TrainingEngine,
    choose_device,
    deepspeed_settings,
    join_process_group,
    quiet_libraries,
)
from jadeberta.training.ledger import Ledger, next_life
from jadeberta.training.loop import train
from jadeberta.training.metrics import MetricsWriter
from jadeberta.training.progress import Progress


def pretrain(recipe: Recipe, resume: str = "auto", dry_run: bool = False) -> None:
    """Trains to the recipe's max_steps, from the newest valid checkpoint where there is one.

    Args:
        recipe: checked.
        resume: auto, required or never.
        dry_run: only check that the run could start, and print what it would be.

    Raises:
        JadebertaError: the run cannot start or go on; see the subclasses for the exit statuses.
    """
    process = detect(os.environ)
    shards = open_shards(recipe.data.shards or _missing("data.shards"))
    repeats = effective_repeats(recipe, shards)
    check_against_shards(recipe, shards)
    accumulation = config_module.accumulation_steps(
        recipe.training.global_batch_size, recipe.training.micro_batch_size, process.world_size
    )
    order = SampleOrder.of(recipe.training.seed, recipe.training.global_batch_size, shards.corpora, repeats)
    if order.epoch_size == 0:
        raise ConfigError(f"{shards.directory}: no sequence to train on with data.repeats {repeats}.")
    run_dir = Path(recipe.run.dir)
    if dry_run:
        deepspeed_settings(recipe, process.world_size)
        if process.is_root:
            print(describe(recipe, process, shards, order, accumulation))
            found = preview(run_dir / "checkpoints", resume, expected_of(recipe, shards, repeats))
            print(f"would resume from {found}" if found else "would start at step 0")
        return
    if process.is_root:
        lock = DirectoryLock(run_dir, "run.dir")  # before the other ranks are met: they wait, and the launcher ends them
    try:
        quiet_libraries(run_dir, process.rank)
    except OSError as e:
        raise ConfigError(
            f"run.dir {run_dir}: cannot be written ({e.strerror}). Choose a directory that every rank can write."
        ) from e
    device = choose_device(recipe, process)
    join_process_group(process, device)
    ledger, life = None, 0
    if process.is_root:
        life = next_life(run_dir / "ledger.jsonl")
        ledger = Ledger(run_dir / "ledger.jsonl", life)
        ledger.write("start", world_size=process.world_size, launcher=process.launcher, device=str(device))
    # mpirun gives its ranks a terminal of their own even where its output goes into a file.
    may_be_live = not process.launcher.startswith("mpirun")
    progress = Progress(process.is_root, recipe.training.max_steps, recipe.logging.every_steps, may_be_live)
    progress.say(describe(recipe, process, shards, order, accumulation))
    engine = TrainingEngine(recipe, process, device)
    checkpointer = Checkpointer(recipe, engine, shards, repeats, ledger, progress)
    state = checkpointer.resume(resume)
    if process.is_root:
        (run_dir / "recipe.yaml").write_text(config_module.dump(recipe), encoding="utf-8")
    try:
        tokens = _train_from(state, recipe, process, shards, order, engine, checkpointer, progress, life)
    except (StopAsked, RequeueWanted, NumericsError) as e:
        if ledger is not None:
            ledger.write("requeue" if isinstance(e, RequeueWanted) else "stop", status=e.exit_status, reason=str(e))
        raise
    if ledger is not None:
        ledger.write("done", step=recipe.training.max_steps, tokens=tokens)
        done = {"step": recipe.training.max_steps, "tokens": tokens, "time": time.time()}
        (run_dir / "DONE").write_bytes(orjson.dumps(done))
        progress.say(f"done: {recipe.training.max_steps} steps, {tokens:,} tokens, run in {run_dir}")
        lock.release()
    dist.destroy_process_group()


def _train_from(
    state: dict[str, Any],
    recipe: Recipe,
    process: Process,
    shards: ShardReader,
    order: SampleOrder,
    engine: TrainingEngine,
    checkpointer: Checkpointer,
    progress: Progress,
    life: int,
) -> int:
    """Trains from a restored state to the end; returns the tokens seen in the whole run."""
    training, run_dir = recipe.training, Path(recipe.run.dir)
    if state["step"] > training.max_steps:
        raise ConfigError(
            f"{run_dir}: is at step {state['step']} already, beyond training.max_steps {training.max_steps}. Raise it."
        )
    if state["step"] == training.max_steps:
        return state["tokens"]
    word_starts = read_word_starts(str(shards.directory / "tokenizer" / "spm.model")) if training.whole_word_mask else None
    masker = Masker(training.seed, recipe.model.vocab_size, training.mask_probability, word_starts)
    by_document = recipe.data.packing == "documents"
    dataset = StepDataset(shards, order, masker, training.micro_batch_size, process.rank, process.world_size, by_document)
    control = Control(run_dir, process.is_root, recipe.run.max_hours)
    control.listen()
    metrics = None
    if process.is_root:
        (run_dir / "DONE").unlink(missing_ok=True)  # of a shorter run that goes on
        metrics = MetricsWriter(run_dir, recipe.logging.tensorboard, state["step"])
    try:
        return train(
            recipe,
            engine,
            iterate_steps(dataset, state["step"], training.max_steps, recipe.data.workers, recipe.data.prefetch),
            checkpointer,
            metrics,
            progress,
            first_step=state["step"],
            tokens=state["tokens"],
            skipped_steps=state["skipped_steps"],
            life=life,
            device_name=torch.cuda.get_device_name(engine.device) if engine.device.type == "cuda" else "cpu",
            control=control,
            ledger=checkpointer.ledger,
        )
    finally:
        if metrics is not None:
            metrics.close()


def effective_repeats(recipe: Recipe, shards: ShardReader) -> dict[str, int]:
    """Per corpus the repeats of the recipe, else of the index. Raises ConfigError for a corpus that is not there."""
    repeats = {name: corpus.repeats for name, corpus in shards.index.corpora.items()}
    if unknown := sorted(recipe.data.repeats.keys() - repeats.keys()):
        raise ConfigError(
            f"data.repeats names '{unknown[0]}', which {shards.directory} does not hold; it holds {', '.join(repeats)}."
        )
    return repeats | recipe.data.repeats


def check_against_shards(recipe: Recipe, shards: ShardReader) -> None:
    """Raises ConfigError where the model cannot read these shards, ShardError where their tokenizer is not the one they name."""
    index = shards.index
    if index.vocab_size != recipe.model.vocab_size:
        raise ConfigError(
            f"model.vocab_size is {recipe.model.vocab_size} but {shards.index_path} was made with a tokenizer of {index.vocab_size} pieces."
        )
    tokenizer = shards.directory / "tokenizer" / "spm.model"
    if not tokenizer.is_file():
        raise ShardError(
            f"{tokenizer}: missing; a checkpoint carries its tokenizer. Copy the whole directory that 'preprocess' wrote."
        )
    if (found := file_sha256(tokenizer)) != index.tokenizer_sha256:
        raise ShardError(
            f"{tokenizer}: sha256 {found[:12]}… but {shards.index_path} was made with {index.tokenizer_sha256[:12]}…. "
            "Run 'python -m preprocess pack' again, or put the tokenizer back."
        )
    if index.sequence_length > recipe.model.max_position_embeddings:
        raise ConfigError(
            f"model.max_position_embeddings is {recipe.model.max_position_embeddings} but the rows of {shards.index_path} "
            f"have {index.sequence_length} tokens."
        )


def describe(recipe: Recipe, process: Process, shards: ShardReader, order: SampleOrder, accumulation: int) -> str:
    """The run in a few lines."""
    training = recipe.training
    corpora = ", ".join(
        f"{name} {len(rows):,} x{repeats}"
        for (name, rows), (_, _, repeats) in zip(shards.corpora.items(), order.corpora, strict=True)
    )
    epochs = training.max_steps * training.global_batch_size / order.epoch_size
    return (
        f"{process.world_size} ranks ({process.launcher}) x micro-batch {training.micro_batch_size} x accumulation {accumulation} "
        f"= {training.global_batch_size} sequences a step, {training.max_steps:,} steps, {epochs:.2f} epochs\n"
        f"data {shards.directory}: {corpora} sequences; fingerprint {shards.index.fingerprint[:12]}\n"
        f"model {recipe.model.num_hidden_layers} x {recipe.model.hidden_size}, attention {recipe.model.attention}, "
        f"{training.precision}, {recipe.deepspeed}; run {recipe.run.dir}"
    )


def _missing(key: str) -> str:
    raise ConfigError(f"{key} is not set; give it in the recipe or as --{key}.")
