"""`jadeberta pretrain`: puts the parts of a run together and hands them to the loop."""

import os
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import orjson
import torch
import torch.distributed as dist

from jadeberta import config as config_module
from jadeberta.checkpoint.checkpointer import Checkpointer
from jadeberta.checkpoint.compatibility import expected_of, preview
from jadeberta.cluster.environment import Process, detect, slurm_job
from jadeberta.cluster.process_group import choose_device, is_lost_peer, join_process_group, set_timeouts
from jadeberta.config import Recipe
from jadeberta.data.batches import StepBatch, StepDataset, iterate_steps
from jadeberta.data.masking import Masker, read_word_starts
from jadeberta.data.sample_order import SampleOrder
from jadeberta.errors import ConfigError, HangError, JadebertaError, NumericsError, RequeueRequested
from jadeberta.evaluation.validation import Validation
from jadeberta.shards import DirectoryLock, ShardError, ShardReader, file_sha256
from jadeberta.shards import open as open_shards
from jadeberta.shards.scrub import Scrubber
from jadeberta.training.console import Progress
from jadeberta.training.control import Asks, Control
from jadeberta.training.engine import TrainingEngine, deepspeed_settings, quiet_libraries
from jadeberta.training.hooks import GRACE_S, Evaluate, World
from jadeberta.training.ledger import Ledger, next_life
from jadeberta.training.loop import RollBack, train
from jadeberta.training.metrics import MetricsWriter, peak_memory_bytes
from jadeberta.training.run_log import RunLog
from jadeberta.training.run_state import RunState
from jadeberta.training.watchdog.client import Heart
from jadeberta.utils.files import write_atomically

WITHOUT_LIMIT_S = 7 * 24 * 3600.0
"""Collectives need a limit; this is none."""


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
    shards = open_shards(recipe.data.shards or _missing("data.shards"), damaged=recipe.data.damaged)
    repeats = effective_repeats(recipe, shards)
    check_against_shards(recipe, shards)
    accumulation = recipe.training.accumulation(process.world_size)
    sizes = recipe.training.batch_sizes
    order = SampleOrder.of(recipe.training.seed, sizes.last, shards.corpora, repeats, sizes.warmup)
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
        # Before the other ranks are met: they wait, and the launcher ends them. A requeued job may meet its own earlier life, on a host
        # that Slurm has lost sight of.
        patience = recipe.watchdog.start_s / 2 if slurm_job(os.environ).get("restarts") else 0.0
        lock = DirectoryLock(run_dir, "run.dir", patience)
    try:
        quiet_libraries(run_dir, process.rank)
    except OSError as e:
        raise ConfigError(
            f"run.dir {run_dir}: cannot be written ({e.strerror}). Choose a directory that every rank can write."
        ) from e
    control = Control(run_dir, process.is_root, recipe.run.max_hours)
    device = choose_device(recipe, process)
    path = run_dir / "ledger.jsonl"
    life = next_life(path) if process.is_root else 0
    if process.is_root:
        Ledger(path, life).write(
            "start", world_size=process.world_size, launcher=process.launcher, device=str(device), slurm=slurm_job(os.environ)
        )
    limits = recipe.watchdog
    join_process_group(process, device, limits.start_s or WITHOUT_LIMIT_S)
    # Not before: the other ranks of a job that is refused here would beat for the one that holds the directory.
    heart = Heart(run_dir, process.rank, process.world_size, limits)
    # The watchdog is to be first, it knows who hangs.
    set_timeouts(max(limits.start_s, limits.first_step_s, limits.save_s) + GRACE_S if limits.start_s else WITHOUT_LIMIT_S)
    ledger = Ledger(path, _told_by_root(life), mend=False)
    # mpirun gives its ranks a terminal of their own even where its output goes into a file.
    may_be_live = not process.launcher.startswith("mpirun")
    progress = Progress(process.is_root, recipe.training.max_steps, recipe.logging.every_steps, may_be_live, sizes)
    progress.say(describe(recipe, process, shards, order, accumulation))
    try:
        run = Run(recipe, process, device, shards, repeats, order, ledger, progress, heart, control)
        state = run.train(resume)
    except JadebertaError as e:
        if process.is_root or isinstance(e, ShardError):
            ledger.write("requeue" if isinstance(e, RequeueRequested) else "stop", status=e.exit_status, reason=str(e))
        raise
    except RuntimeError as e:
        if "DataLoader worker" in str(e):  # told wherever the training happens to be
            raise HangError(f"{str(e).splitlines()[0]} Where it was killed, look for the memory of the host.") from None
        if not is_lost_peer(e):
            raise
        reason = re.sub(r"^\[\S+\] *", "", next(iter(str(e).splitlines()), type(e).__name__)).split(". ")[0]
        if process.is_root:
            ledger.write("lost_rank", status=HangError.exit_status, reason=reason)
        raise HangError(f"another rank hung or is gone ({reason}). Its own log and {run_dir}/heartbeat tell more.") from e
    if process.is_root:
        ledger.write("done", step=state.step, tokens=state.tokens, peak_memory_bytes=peak_memory_bytes(device))
        done = {"step": state.step, "tokens": state.tokens, "time": time.time()}
        write_atomically(run_dir / "DONE", orjson.dumps(done))
        progress.say(f"done: {state.step} steps, {state.tokens:,} tokens, run in {run_dir}")
        lock.release()
    dist.destroy_process_group()
    heart.stop()


def _told_by_root(number: int) -> int:
    """Rank 0's number, on every rank."""
    told = [number]
    dist.broadcast_object_list(told, src=0)
    return told[0]


class Run:
    """One life of a run: its parts, put together, and the ways back to a checkpoint."""

    def __init__(
        self,
        recipe: Recipe,
        process: Process,
        device: torch.device,
        shards: ShardReader,
        repeats: dict[str, int],
        order: SampleOrder,
        ledger: Ledger,
        progress: Progress,
        heart: Heart,
        control: Control,
    ) -> None:
        self.recipe, self.process, self.shards, self.order = recipe, process, shards, order
        root_ledger = ledger if process.is_root else None
        self.engine = TrainingEngine(recipe, process, device)
        if self.engine.compiled:
            progress.say("torch.compile is on: the first step takes minutes, and less where this machine has compiled it before")
        self.checkpointer = Checkpointer(recipe, self.engine, shards, repeats, root_ledger, progress)
        name = torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
        self.log = RunLog(recipe, root_ledger, progress, ledger.life, name, process.world_size)
        self.scrubber = Scrubber(shards, process.rank, process.world_size)
        evaluate = self._evaluator() if recipe.evaluation.every_steps else None
        self.world = World(recipe, self.engine, heart, control, ledger, progress, shards, self.scrubber, evaluate)
        self.engine.beat = self.world.in_step

    def train(self, resume: str) -> RunState:
        """Trains to the end, from the newest valid checkpoint where there is one; goes back where the guard says so."""
        recipe, run_dir = self.recipe, Path(self.recipe.run.dir)
        self.world.beat("start", 0, "resume")
        state = self.checkpointer.resume(resume)
        if state.step > recipe.training.max_steps:
            raise ConfigError(
                f"{run_dir}: is at step {state.step} already, beyond training.max_steps {recipe.training.max_steps}. Raise it."
            )
        if self.process.is_root:
            write_atomically(run_dir / "recipe.yaml", config_module.dump(recipe).encode())
        if state.step == recipe.training.max_steps:
            return state
        if self.process.is_root:
            (run_dir / "DONE").unlink(missing_ok=True)  # of a shorter run that goes on
            self.log.metrics = MetricsWriter(run_dir, recipe.logging.tensorboard, state.step)
        self.world.control.listen()
        for record in self.shards.excluded_shards:
            self.log.note("set_aside", **vars(record))
        try:
            while True:
                order = self.order.stepping_over(state.stepped_over)
                batches = self._batches(order, state.step)
                try:
                    state = train(recipe, self.engine, batches, order, self.checkpointer, self.world, self.log, state)
                    break
                except RollBack as e:
                    state = self._go_back(state, e)
            self.checkpointer.close()
            return state
        finally:
            self.scrubber.close()
            self.engine.close()
            if self.log.metrics is not None:
                self.log.metrics.close()

    def _batches(self, order: SampleOrder, first_step: int) -> Iterator[StepBatch]:
        training, shards = self.recipe.training, self.shards
        told_by_pieces = training.whole_word_mask and shards.index.word_starts == "pieces"
        words = read_word_starts(str(shards.directory / "tokenizer" / "spm.model")) if told_by_pieces else None
        masker = Masker(training.seed, self.recipe.model.vocab_size, training.mask_probability, words)
        by_document = self.recipe.data.packing == "documents"
        place = (self.process.rank, self.process.world_size)
        dataset = StepDataset(shards, order, masker, training.micro_batch_size, *place, by_document, training.whole_word_mask)
        return iterate_steps(dataset, first_step, training.max_steps, self.recipe.data.workers, self.recipe.data.prefetch)

    def _go_back(self, before: RunState, cause: RollBack) -> RunState:
        """Restores the newest checkpoint before the bad steps and steps over all data since; raises NumericsError past the limit.

        All data since, not only that of the bad steps: what spoils the numbers is often older than what shows it (PaLM's remedy for
        spikes, Chowdhery et al. 2022, section 5.1).
        """
        limit = self.recipe.guard.max_rollbacks
        run_dir = self.recipe.run.dir
        if before.rollbacks >= limit:
            raise NumericsError(
                f"{run_dir}: {cause}, after {before.rollbacks} roll-backs (guard.max_rollbacks {limit}). "
                "The ledger names the samples and the reasons; look at them and at the learning rate."
            )
        restored = self.checkpointer.roll_back(cause.first_bad)
        state = restored.after_rollback(before, cause.end)
        first, end = state.stepped_over[-1]
        self.log.note("rollback", step=state.step, from_step=cause.end, stepped_over=[first, end], number=state.rollbacks)
        self.log.progress.say(
            f"ROLLED BACK to step {state.step}: {cause}. The data of steps {first + 1} to {end} is stepped over; "
            f"roll-back {state.rollbacks} of at most {limit}."
        )
        return state

    def _evaluator(self) -> Evaluate:
        validation = Validation(self.recipe, self.engine, open_shards(self.shards.directory, "valid", self.recipe.data.damaged))

        def evaluate(poll: Callable[[], Asks]) -> tuple[dict[str, dict[str, float]], Asks, float]:
            began = time.monotonic()
            figures, asks = validation(poll)
            return figures, asks, time.monotonic() - began

        return evaluate


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
    if index.packing == "best_fit" and recipe.data.packing == "concat":
        raise ConfigError(
            f"data.packing is concat, but the rows of {shards.index_path} hold unrelated documents (preprocess.packing best_fit), "
            "which would attend to each other. Set data.packing: documents, or pack the shards with preprocess.packing concat."
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
    epochs = training.batch_sizes.before(training.max_steps) / order.epoch_size
    growing = f" (after {training.batch_sizes.warmup_in_words})" if training.batch_size_warmup else ""
    return (
        f"{process.world_size} ranks ({process.launcher}) x micro-batch {training.micro_batch_size} x accumulation {accumulation} "
        f"= {training.global_batch_size} sequences a step{growing}, {training.max_steps:,} steps, {epochs:.2f} epochs\n"
        f"data {shards.directory}: {corpora} sequences; fingerprint {shards.index.fingerprint[:12]}\n"
        f"model {recipe.model.num_hidden_layers} x {recipe.model.hidden_size}, attention {recipe.model.attention}, "
        f"{training.precision}, {recipe.deepspeed}; run {recipe.run.dir}"
    )


def _missing(key: str) -> str:
    raise ConfigError(f"{key} is not set; give it in the recipe or as --{key}.")
