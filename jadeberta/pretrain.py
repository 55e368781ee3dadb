"""`jadeberta pretrain`: puts the parts of a run together and hands them to the loop."""

import contextlib
import logging
import os
import re
import time
import uuid
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson
import torch.distributed as dist

from jadeberta import config as config_module
from jadeberta.checkpoint.checkpointer import Checkpointer
from jadeberta.checkpoint.compatibility import expected_of, preview
from jadeberta.checkpoint.held_tokenizer import read_tokenizer
from jadeberta.cluster.device import choose_device, describe_device, gpu_uuid
from jadeberta.cluster.environment import Process, detect, slurm_job
from jadeberta.cluster.process_group import from_root, is_lost_peer, join_process_group, own_fault, set_timeouts
from jadeberta.config import Recipe
from jadeberta.config.lineage import first_step_in_words
from jadeberta.config.phases import phases_of, require_divisible, token_sizes
from jadeberta.data.batches import StepBatch, iterate_steps
from jadeberta.data.loader_processes import explain_death
from jadeberta.data.masking import read_word_starts
from jadeberta.data.run_data import RunData, RunDataset, open_run_data
from jadeberta.errors import ConfigError, HangError, JadebertaError, NumericsError, OutputError, RequeueRequested, ResourceError
from jadeberta.evaluation.validation import Validation
from jadeberta.model.attention.dispatch import attention_form
from jadeberta.shards import DirectoryLock, ShardError, ShardReader
from jadeberta.shards.scrub import Scrubber
from jadeberta.shards.tokenizer_format import MODEL_FILE
from jadeberta.start.plan import plan_start, settle_start
from jadeberta.start.program_version import changed_settings, program_version
from jadeberta.status.live_goodput import LiveGoodput
from jadeberta.training.console import Console, redirect_library_logs
from jadeberta.training.control import RunControl
from jadeberta.training.describe_run import describe
from jadeberta.training.engine import TrainingEngine, deepspeed_settings
from jadeberta.training.hooks import GRACE_S, NO_LIMIT_S, TrainerHooks
from jadeberta.training.ledger import Ledger, next_attempt
from jadeberta.training.loop import RollBack, train
from jadeberta.training.metrics import MetricsWriter, peak_memory_bytes
from jadeberta.training.repeatable.determinism import make_deterministic, pinned_variables, record_bits
from jadeberta.training.run_context import RunContext, StartOfRun
from jadeberta.training.run_log import RunLog
from jadeberta.training.run_state import Order, RunState
from jadeberta.training.sinks import require_known_sinks
from jadeberta.training.watchdog.client import WatchdogClient
from jadeberta.training.watchdog.energy_sums import read_energy
from jadeberta.training.watchdog.slow_rank_rule import SlowRankRule
from jadeberta.utils.files import write_atomically
from jadeberta.utils.json_lines import read_jsonl
from jadeberta.utils.logs import configure_console

logger = logging.getLogger(__name__)

MOST_SPARE_EMBEDDINGS = 1024
"""A model that starts from random weights has fewer embeddings than this that are no token's."""


def pretrain(recipe: Recipe, resume: str = "auto", dry_run: bool = False, branch_from: Path | None = None) -> None:
    """Trains to the recipe's max_steps, from the newest valid checkpoint where there is one.

    Args:
        recipe: a checked one.
        resume: auto, required or never.
        dry_run: only check that the run could start, and print what it would be.
        branch_from: checkpoint of another run that a new run goes on from, or its run directory.

    Raises:
        JadebertaError: the run cannot start or go on; see the subclasses for the exit statuses.
    """
    process = detect(os.environ)
    require_known_sinks(recipe.logging.sinks)
    if not recipe.data.shards:
        raise ConfigError("data.shards is not set; give it in the recipe or as --data.shards.")
    data = open_run_data(recipe)
    tokenizer = check_against_shards(recipe, data.shards)
    require_divisible(recipe, process.world_size)
    deepspeed_settings(recipe, process.world_size)
    if recipe.training.deterministic:
        pinned_variables(os.environ)
    # Rank 0 alone reads a source and sends it to the others; it does so before it joins them on their devices.
    start = plan_start(recipe, data.shards, tokenizer, data.repeats, branch_from) if process.is_root else StartOfRun()
    if dry_run:
        _print_dry_run(recipe, process, data, resume, start)
        return
    context, lock = _start(recipe, process, data, start)
    context = replace(context, tokenizer=tokenizer, start=start)
    with contextlib.ExitStack() as at_the_end:
        state = _train(context, resume, at_the_end)
        if lock is not None:
            lock.require_held()  # before the ledger, which may be another job's by now
        _record_energy(context)
        context.record("done", step=state.step, tokens=state.tokens, peak_memory_bytes=peak_memory_bytes(context.device))
    if lock is not None:
        done = {"step": state.step, "tokens": state.tokens, "time": time.time()}
        _write_done(context.run_dir / "DONE", orjson.dumps(done))
        logger.info("done: %s steps, %s tokens, run in %s", state.step, f"{state.tokens:,}", context.run_dir)
        lock.release()
    dist.destroy_process_group()
    context.watchdog.stop()


def _train(context: RunContext, resume: str, at_the_end: contextlib.ExitStack) -> RunState:
    """Trains to the end; an error that ends the training is recorded in the ledger.

    Args:
        context: of the run.
        resume: auto, required or never.
        at_the_end: closes the metrics, whose sinks get the events that end the attempt too.
    """
    try:
        trainer = Trainer(context)
        at_the_end.callback(trainer.close_log)
        return trainer.train(resume)
    except JadebertaError as e:
        # A damaged shard or a shortage may be one rank's own finding. Other errors meet all ranks, or rank 0 alone as a lost lock does:
        # rank 0 writes them once.
        _record_energy(context)
        if context.process.is_root or isinstance(e, ShardError | ResourceError):
            context.ledger.write("requeue" if isinstance(e, RequeueRequested) else "stop", status=e.exit_status, reason=str(e))
        raise
    except RuntimeError as e:
        # The first is raised by a signal handler, wherever the training happens to be.
        if known := explain_death(e) or own_fault(e):
            context.ledger.write("stop", status=known.exit_status, reason=str(known))
            raise known from None
        if not is_lost_peer(e):
            raise
        reason = re.sub(r"^\[\S+\] *", "", next(iter(str(e).splitlines()), type(e).__name__)).split(". ")[0]
        context.record("lost_rank", status=HangError.exit_status, reason=reason)
        raise HangError(f"another rank hung or is gone ({reason}). Its own log and {context.run_dir}/heartbeat tell more.") from e


def _record_energy(context: RunContext) -> None:
    """Records what all ranks have used, where anything is measured; the watchdog does it in between."""
    if not context.process.is_root:
        return
    if used := read_energy(context.run_dir, context.process.world_size, context.attempt):
        context.record("energy", **used)


def _write_done(path: Path, content: bytes) -> None:
    """Writes DONE; job scripts take a run without it for one that is not done.

    Raises:
        OutputError: the disk does not take it, tried for some seconds.
    """
    for wait_s in (1.0, 3.0, 0.0):
        try:
            return write_atomically(path, content)
        except OSError as e:
            error = e
            time.sleep(wait_s)  # pruning beside it may make room
    raise OutputError(
        f"{path}: cannot be written ({error.strerror}). The run is trained to its end and its last checkpoint is good: make room and "
        "start it again, which writes this file alone."
    )


def _print_dry_run(recipe: Recipe, process: Process, data: RunData, resume: str, start: StartOfRun) -> None:
    """Prints what the run would be, on rank 0; raises what a start would raise.

    Args:
        recipe: of the run.
        process: of the job.
        data: of the run.
        resume: auto, required or never.
        start: what the run starts from while it has no checkpoint.
    """
    if process.is_root:
        print(describe(recipe, process, data, f"{recipe.run.device} (a dry run looks for none)"))
        found = preview(Path(recipe.run.dir) / "checkpoints", resume, expected_of(recipe, data.shards, data.repeats), recipe)
        print(f"would resume from {found}" if found else f"would start at {first_step_in_words(start.lineage)}")


def _start(recipe: Recipe, process: Process, data: RunData, start: StartOfRun) -> tuple[RunContext, DirectoryLock | None]:
    """Takes the run directory, joins the process group and starts the watchdog; every rank calls it.

    Args:
        recipe: of the run.
        process: of the job.
        data: of the run.
        start: what the run starts from while it has no checkpoint.

    Returns:
        The run context; on rank 0 the lock of the run directory, which is held as long as it is kept.

    Raises:
        ConfigError: the directory is in use or cannot be written, or the device is not there.
        HangError: not all ranks came, or they do not reach each other.
    """
    run_dir, lock = Path(recipe.run.dir), None
    if process.is_root:
        # Before the other ranks join: they wait, and the launcher ends them. A requeued job may find its own earlier attempt still at
        # work, on a host that Slurm has lost sight of.
        patience = recipe.watchdog.start_s / 2 if slurm_job(os.environ).get("restarts") else 0.0
        lock = DirectoryLock(run_dir, "run.dir", patience)
    # mpirun gives its ranks a terminal even where its own output goes into a file.
    handler = configure_console(process.is_root, live=not process.launcher.startswith("mpirun"))
    try:
        redirect_library_logs(run_dir, process.rank)
    except OSError as e:
        raise ConfigError(
            f"run.dir {run_dir}: cannot be written ({e.strerror}). Choose a directory that every rank can write."
        ) from e
    # The clock of run.max_hours starts here: the job's time limit counts the waiting too.
    control = RunControl(run_dir, process.is_root, recipe.run.max_hours, lock)
    if recipe.training.deterministic:
        make_deterministic()
    device = choose_device(recipe.run.device, process.local_rank)
    path = run_dir / "ledger.jsonl"
    attempt = next_attempt(path) if process.is_root else 0
    if process.is_root:
        settle_start(run_dir, start)
        lineage = {"lineage": list(start.lineage)} if start.lineage else {}
        job = slurm_job(os.environ)
        Ledger(path, attempt).write(
            "start", world_size=process.world_size, launcher=process.launcher, device=str(device), slurm=job, program=program_version(),
            **lineage,
        )  # fmt: skip
    limits = recipe.watchdog
    join_process_group(process, device, limits.start_s or NO_LIMIT_S, run_dir, limits.longest_s or NO_LIMIT_S)
    # Not before: the other ranks of a job that is refused here would write heartbeats for the job that holds the directory.
    # Rank 0 alone reads the ledger: read by each rank, it might already hold this attempt's start on some.
    attempt, attempt_id = from_root((attempt, uuid.uuid4().hex))
    rule = SlowRankRule.of(recipe, bool(slurm_job(os.environ).get("job")))
    watchdog = WatchdogClient(run_dir, process.rank, process.world_size, limits, attempt, attempt_id, gpu_uuid(device), rule)
    # The watchdog must be first: it knows who hangs.
    set_timeouts(max(limits.start_s, limits.first_step_s, limits.save_s) + GRACE_S if limits.start_s else NO_LIMIT_S)
    ledger = Ledger(path, attempt, mend=False)
    sizes = token_sizes(recipe, data.shards.sequence_length)
    console = Console(recipe.training.max_steps, recipe.logging.every_steps, sizes, handler, recipe.checkpoint.every_steps)
    first = data.phases[0]
    form = attention_form(first.attention, device.type, first.sequence_length or data.shards.sequence_length)
    logger.info(describe(recipe, process, data, f"{describe_device(device)}, attention: {form}"))
    context = RunContext(recipe, process, device, data, ledger, console, watchdog, control)
    return context, lock


class Trainer:
    """One attempt of a run: its parts, and the ways back to a checkpoint."""

    def __init__(self, context: RunContext) -> None:
        """Builds the parts; every rank does, as engine and checkpointer make process groups."""
        self.context, recipe, process = context, context.recipe, context.process
        special = context.shards.index.special_tokens
        self.engine = TrainingEngine(recipe, process, context.device, context.watchdog.enter_section, special)
        if self.engine.compiled:
            logger.info("torch.compile is on: the first step takes minutes, and less where this machine has compiled it before")
        self.checkpointer = Checkpointer(context, self.engine)
        self.scrubbers = [Scrubber(reader, process.rank, process.world_size) for reader in context.data.readers.values()]
        evaluate = Validation(context, self.engine) if recipe.evaluation.every_steps else None
        self.hooks = TrainerHooks(context, self.scrubbers, evaluate)
        self.log: RunLog | None = None

    def close_log(self) -> None:
        """Closes the metrics and their sinks; before, they get the events that end the attempt."""
        if self.log is not None:
            self.log.close()

    def train(self, resume: str) -> RunState:
        """Trains to the end, from the newest valid checkpoint where there is one; goes back to one where the guard says so."""
        context, recipe, run_dir = self.context, self.context.recipe, self.context.run_dir
        self.hooks.beat("start", 0, "resume")
        state = self.checkpointer.resume(resume)
        if state.step > recipe.training.max_steps:
            raise ConfigError(
                f"{run_dir}: is at step {state.step} already, beyond training.max_steps {recipe.training.max_steps}. Raise it."
            )
        is_root = context.process.is_root
        record_bits(context, self.engine, state.step)
        if is_root:
            resolved = config_module.dump(recipe)
            if changed := changed_settings(run_dir / "recipe.yaml", resolved):
                context.record("settings", changed=changed)
            try:
                write_atomically(run_dir / "recipe.yaml", resolved.encode())
            except OSError as e:
                logger.warning(
                    "%s: cannot be written (%s); every checkpoint has the recipe too", run_dir / "recipe.yaml", e.strerror
                )
        if state.step == recipe.training.max_steps:
            return state
        if is_root:
            with contextlib.suppress(OSError):  # left by a shorter run that goes on now; its step says so too
                (run_dir / "DONE").unlink(missing_ok=True)
        log = self.log = RunLog(context, self._open_metrics(state.step) if is_root else None)
        # Not before: until the first step there is nothing to save, and USR1 and TERM end the process as they do by default.
        context.control.listen()
        for shard in (s for reader in context.data.readers.values() for s in reader.excluded_shards):
            context.record("set_aside", **vars(shard))
        try:
            while True:
                order = state.order(context.data.order)
                batches = self._batches(order, state.step)
                parts: dict[str, Any] = {"engine": self.engine, "saver": self.checkpointer, "hooks": self.hooks, "log": log}
                try:
                    state = train(recipe, state, batches, order, phases=context.data.phases, **parts)
                    break
                except RollBack as e:
                    state = self._roll_back(state, e)
            self.checkpointer.close()
            return state
        finally:
            for scrubber in self.scrubbers:
                scrubber.close()
            self.engine.close()

    def _open_metrics(self, step: int) -> MetricsWriter:
        """Opens the metrics of rank 0, which goes on from a step; their sinks get this attempt's events, those so far too."""
        recipe, run_dir, ledger = self.context.recipe, self.context.run_dir, self.context.ledger
        metrics = MetricsWriter(run_dir, recipe.logging.sinks, step, LiveGoodput(run_dir) if recipe.logging.sinks else None)
        for row in read_jsonl(ledger.path) if recipe.logging.sinks else []:
            # A hang is written by the watchdog, when the sinks of that attempt are as good as dead.
            if row.get("attempt") == ledger.attempt or (row.get("event") == "hang" and row.get("attempt") == ledger.attempt - 1):
                metrics.event(row)
        ledger.listener = metrics.event
        return metrics

    def _batches(self, order: Order, first_step: int) -> Iterator[StepBatch]:
        """This rank's batches from `first_step` on."""
        recipe, shards, process = self.context.recipe, self.context.shards, self.context.process
        by_pieces = recipe.training.whole_word_mask and shards.index.word_starts == "pieces"
        words = read_word_starts(self.context.tokenizer[MODEL_FILE]) if by_pieces else None
        dataset = RunDataset(recipe, self.context.data, order, process.rank, process.world_size, words)
        return iterate_steps(dataset, first_step, recipe.training.max_steps, recipe.data.workers, recipe.data.prefetch)

    def _roll_back(self, before: RunState, cause: RollBack) -> RunState:
        """Restores the newest checkpoint before the bad steps and skips all data since; raises NumericsError past the limit.

        All data since, not only that of the bad steps: what spoils the numbers is often older than what shows it (PaLM's remedy for
        spikes, Chowdhery et al. 2022, section 5.1).
        """
        limit = self.context.recipe.guard.max_rollbacks
        if before.rollbacks >= limit:
            raise NumericsError(
                f"{self.context.run_dir}: {cause}, after {before.rollbacks} roll-backs (guard.max_rollbacks {limit}). "
                "The ledger names the samples and the reasons; look at them and at the learning rate."
            )
        restored = self.checkpointer.roll_back(cause.first_bad)
        state = restored.after_rollback(before, cause.end, self.context.data.order)
        if state.skipped_ranges:
            first, end = state.skipped_ranges[-1]
            skipped: dict[str, Any] = {"stepped_over": [first, end]}
            what = f"The data of steps {first + 1} to {end} is skipped"
        else:
            skipped = {"skipped_samples": [list(r) for r in state.skipped_samples]}
            what = f"The data of steps {state.step + 1} to {cause.end} is skipped, each phase's in its own order"
        self.context.record("rollback", step=state.step, from_step=cause.end, **skipped, number=state.rollbacks)
        logger.info(
            "ROLLED BACK to step %s: %s. %s; roll-back %s of at most %s.", state.step, cause, what, state.rollbacks, limit
        )  # fmt: skip
        return state


def check_against_shards(recipe: Recipe, shards: ShardReader) -> dict[str, bytes]:
    """Checks that the model of a recipe can be trained on these shards; returns the tokenizer's files, read and checked.

    Raises:
        ConfigError: vocabulary, row length or packing do not fit.
        ShardError: the tokenizer beside the shards is missing, or not the one they were made with.
    """
    index = shards.index
    # A model may have more embeddings than its tokenizer has pieces: those are no token's. A published one as many as it likes, another
    # one what makes the number round, so that a wrong number is still found.
    spare = recipe.model.vocab_size - index.vocab_size
    is_padded = spare > 0 and (bool(recipe.model.init_from) or spare < MOST_SPARE_EMBEDDINGS)
    if index.vocab_size != recipe.model.vocab_size and not is_padded:
        if recipe.model.init_from and recipe.model.init_tokenizer == "same":
            raise ConfigError(
                f"model.init_from {recipe.model.init_from}: has {recipe.model.vocab_size} embeddings, but the tokenizer of "
                f"{shards.index_path} has {index.vocab_size} pieces, so it is another one. Set model.init_tokenizer: match and "
                f"model.vocab_size: {index.vocab_size} to carry the embeddings over, or make the shards with the source's tokenizer."
            )
        raise ConfigError(
            f"model.vocab_size is {recipe.model.vocab_size}, but the tokenizer of {shards.index_path} has {index.vocab_size} pieces. "
            f"Set model.vocab_size to {index.vocab_size}; preprocess.vocab_size only counts when shards are made."
        )
    tokenizer = read_tokenizer(shards)
    if index.packing == "best_fit" and recipe.data.packing == "concat":
        raise ConfigError(
            f"data.packing is concat, but the rows of {shards.index_path} hold unrelated documents (preprocess.packing best_fit), "
            "which would attend to each other. Set data.packing: documents, or pack the shards with preprocess.packing concat."
        )
    is_read = any(phase.sequence_length in (None, index.sequence_length) for phase in phases_of(recipe))
    if is_read and index.sequence_length > recipe.model.max_position_embeddings:
        raise ConfigError(
            f"model.max_position_embeddings is {recipe.model.max_position_embeddings} but the rows of {shards.index_path} "
            f"have {index.sequence_length} tokens. Set it to {index.sequence_length} or more, or read other rows."
        )
    return tokenizer
