"""`python -m preprocess STAGE --config RECIPE --out DIR`: the four stages, singly or all in a row, and the check of their result.

Under mpirun or srun the ranks share the work of each stage, and so do, without MPI, all processes that are given the same --pool.
What was done before under the same settings is not done again.
"""

import argparse
import contextlib
import logging
import os
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from jadeberta.shards import ConfigError, DirectoryLock, JadebertaError, ShardIndex, find_index, verify
from jadeberta.utils.command_line import OneSentenceParser, ParagraphFormatter, positive
from jadeberta.utils.interrupts import INTERRUPTED
from jadeberta.utils.logs import configure_console
from jadeberta.utils.paths import path_option, require_current_directory
from jadeberta.utils.processes import end_with_launcher
from jadeberta.utils.progress_line import CLEAR_LINE, ConsoleHandler
from jadeberta.utils.resources import raise_open_files_limit
from preprocess.config import PreprocessConfig
from preprocess.corpus_report import print_report, write_report
from preprocess.estimate import describe_plan
from preprocess.executors.executor import Executor, portable_error
from preprocess.executors.file_executor import SILENCE_SECONDS, FileExecutor, require_finished
from preprocess.executors.progress import ProgressReporter, clear
from preprocess.job_status import describe_directory
from preprocess.load_config import load_config
from preprocess.segmenters import open_segmenter
from preprocess.workdir import REPORT_NAME, progress_dir, read_training
from preprocess.written_files import claim, remove_leftovers, require_own_work

STAGES = ("extract", "segment", "tokenizer", "pack")
LONGEST_SILENCE_SECONDS = 86400.0
REQUEUED_PATIENCE_SECONDS = 120.0
"""How long a requeued job waits for the processes of its former attempt to end."""


def main() -> None:
    """Ends with status 0 where every stage ran or `verify` found no fault."""
    end_with_launcher(os.environ)
    try:
        options, overrides = _parse()
    except ConfigError as e:
        print(f"ConfigError: {e}", file=sys.stderr, flush=True)
        sys.exit(e.exit_status)
    raise_open_files_limit()
    executor = _join(options)
    console = configure_console(executor.is_root, times=True)
    if console is None:
        # Warnings are about the parts that this rank alone has done.
        warnings = ConsoleHandler(live=False)
        warnings.setLevel(logging.WARNING)
        if sys.stdout.isatty():
            # Rank 0 has a progress line there, which is renewed below this one.
            warnings.setFormatter(logging.Formatter(f"{CLEAR_LINE}%(message)s"))
        logging.getLogger("preprocess").addHandler(warnings)
    directory = options.directory or options.out
    try:
        require_current_directory()
        if options.stage in READ_ONLY_VERBS and directory is None:
            raise ConfigError(f"{options.stage}: name the directory.")
        elif options.stage in READ_ONLY_VERBS:
            status = _read_only(options, directory, executor)
        else:
            status = _run(options, overrides, executor, console)
    except JadebertaError as e:
        if executor.reports(e):
            print(f"{type(e).__name__}: {e}", file=sys.stderr, flush=True)
        status = e.exit_status
    except KeyboardInterrupt:
        print("interrupted; the same command goes on from here", file=sys.stderr, flush=True)
        executor.abort(INTERRUPTED)
    except Exception as e:
        # An error that this rank alone has met, outside the work that the executor watches over.
        error = portable_error(e, f"rank {executor.rank}")
        if isinstance(error, JadebertaError):
            print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
            executor.abort(error.exit_status)
        traceback.print_exc()
        executor.abort(1)
    executor.leave()
    sys.exit(status)


def _parse() -> tuple[argparse.Namespace, list[str]]:
    """Reads the command line; returns the options, and those that are keys of the recipe."""
    parser = OneSentenceParser(
        prog="python -m preprocess",
        allow_abbrev=False,
        description=__doc__,
        formatter_class=ParagraphFormatter,
        epilog="Any key of the recipe's preprocess section can be given as an option: --preprocess.segmenter.engine mecab",
    )
    parser.add_argument(
        "stage",
        choices=[*STAGES, "all", "status", "verify", "coverage"],
        help="all runs the four stages; status shows from another terminal how far they are; verify checks a finished directory; "
        "coverage compares its tokenizer with sentencepiece's own",
    )
    parser.add_argument(
        "directory", nargs="?", type=path_option, help="status, verify, coverage: the directory to look at (or give --out)"
    )
    parser.add_argument("--config", type=path_option, help="recipe; its preprocess section is read")
    parser.add_argument("--out", type=path_option, help="where everything is written: index.json, the shards, tokenizer/, work/")
    parser.add_argument(
        "--corpora", type=path_option, help="take the corpora found in this folder by their usual names, not the recipe's"
    )
    parser.add_argument(
        "--pool",
        metavar="NAME",
        help="share the work with every process that is started with this NAME, through files under --out: no MPI, any number of "
        "them, at any time; a name is used for one job. verify: also check that the pool finished 'all'",
    )
    parser.add_argument(
        "--pool-silence",
        type=_silence,
        default=SILENCE_SECONDS,
        metavar="SECONDS",
        help="after so long without a renewed liveness file others take over the tasks of a process of the pool (%(default)s)",
    )
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="try a little of each corpus on this host and estimate the hours and the disk space that the stages will take; write nothing",
    )
    options, overrides = parser.parse_known_args()
    if options.stage not in (*STAGES, "all") and overrides:
        parser.error(f"{options.stage} takes no option {overrides[0]}")
    return options, overrides


def _silence(text: str) -> float:
    """Seconds of --pool-silence; a liveness file is renewed several times in each, and no host stands still for a day."""
    if not 1.0 <= (seconds := positive(text)) <= LONGEST_SILENCE_SECONDS:
        raise argparse.ArgumentTypeError(f"'{text}' is not a number from 1 to {LONGEST_SILENCE_SECONDS:.0f}")
    return seconds


def _join(options: argparse.Namespace) -> Executor:
    """Returns the executor: a pool if --pool names one, else MPI ranks or this process alone."""
    verifies = options.stage == "verify"
    out = (options.directory or options.out) if verifies else options.out
    try:
        if options.pool is None or out is None or options.dry_run or (verifies and not out.is_dir()):
            return Executor()
        if not verifies:
            require_own_work(out)
        return FileExecutor(out, options.pool, options.stage, options.pool_silence, holds=not verifies)
    except (JadebertaError, OSError) as e:
        error = portable_error(e, "this process")
        print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
        sys.exit(getattr(error, "exit_status", 1))


def _read_only(options: argparse.Namespace, directory: Path, executor: Executor) -> int:
    try:
        status = READ_ONLY_VERBS[options.stage](directory, options.pool, executor)
        sys.stdout.flush()
    except BrokenPipeError:  # who closes a pipe, as head(1) does, has read enough
        return 1
    return status


def _run(options: argparse.Namespace, overrides: list[str], executor: Executor, console: ConsoleHandler | None) -> int:
    config = executor.run_on_root(lambda: load_config(options.config, tuple(overrides), options.corpora))
    if options.out is None:
        print("python -m preprocess: --out DIR is missing", file=sys.stderr)
        return 2
    wanted = STAGES if options.stage == "all" else (options.stage,)
    if "segment" in wanted:
        # Found out now, a missing segmenter costs nothing; after extract it would cost hours.
        executor.run_on_all(lambda: open_segmenter(config.segmenter).close())
    if options.dry_run:
        lines = executor.run_on_root(lambda: describe_plan(config, options.out, wanted, executor.size))
        if executor.is_root:
            print("\n".join(lines))
        return 0
    # Held until the process ends, however it ends. The processes of a pool hold a lock of their own together.
    held: list[DirectoryLock] = []

    def prepare() -> None:
        if options.pool is None:
            require_own_work(options.out)
            # A requeued job may start before the last process of its former attempt has ended.
            patience = REQUEUED_PATIENCE_SECONDS if os.environ.get("SLURM_RESTART_COUNT", "0") != "0" else 0.0
            held.append(DirectoryLock(options.out / "work", "--out", patience))
            executor.guard = held[0].require_held
            remove_leftovers(options.out)
        claim(options.out, [REPORT_NAME])
        clear(progress_dir(options.out))

    executor.run_on_root(prepare)
    reporter = ProgressReporter(progress_dir(options.out), executor.rank, executor.counters, console.show if console else None)
    try:
        reports: dict[str, Any] = {}
        for stage in wanted:
            began = time.monotonic()
            executor.counters.open_stage(stage)
            result = _work(stage)(config, options.out, executor)
            reports[stage] = {"result": result, "seconds": time.monotonic() - began, "ranks": executor.size}
            if executor.is_root:
                logging.getLogger("preprocess").info(
                    "%s: done in %.1f s on %d ranks", stage, reports[stage]["seconds"], executor.size
                )
    finally:
        reporter.stop()
        if console:
            console.close_line()

    def conclude() -> None:
        written = write_report(options.out, reports)
        clear(progress_dir(options.out))
        remove_leftovers(options.out)  # a process of a pool may have been killed while the others went on
        executor.finish()
        with contextlib.suppress(OSError):  # nobody reads it any more; the work is done all the same
            print_report(written)

    executor.run_on_root(conclude)
    for lock in held:
        lock.release()
    return 0


def _work(stage: str) -> Callable[[PreprocessConfig, Path, Executor], Any]:
    """Returns a stage's function; imported late, as each stage loads libraries of its own."""
    if stage == "extract":
        from preprocess.stages.extract import extract

        return extract
    if stage == "segment":
        from preprocess.stages.segment import segment

        return segment
    if stage == "tokenizer":
        from preprocess.stages.tokenizer import train_tokenizer

        return train_tokenizer
    from preprocess.stages.pack import pack

    return pack


def _status(directory: Path, pool: str | None, executor: Executor) -> int:
    if executor.is_root:
        print("\n".join(describe_directory(directory)))
    return 0


def _verify(directory: Path, pool: str | None, executor: Executor) -> int:
    def check() -> list[str]:
        if pool is not None:
            require_finished(directory, pool, "all")

        def show(line: str) -> None:
            with contextlib.suppress(BrokenPipeError):  # the status counts, though nobody reads the lines
                print(line, flush=True)

        return verify(directory, progress=show)

    faults = executor.run_on_root(check)
    if executor.is_root:
        for fault in faults:
            print(fault, file=sys.stderr)
        if not faults:
            index = ShardIndex.load(find_index(directory))
            print(
                f"{directory}: {_sequences(index)} in {len(index.corpora)} corpora, all as index.json says; {index.fingerprint[:16]}"
            )
    return 1 if faults else 0


def _sequences(index: ShardIndex) -> str:
    """Returns the number of sequences of each row length in words."""
    counts = dict.fromkeys(index.sequence_lengths, 0)
    for corpus in index.corpora.values():
        for entry in [*corpus.train, *corpus.valid]:
            counts[index.length_of(entry)] += entry.sequences
    return " and ".join(f"{count:,} sequences of {length:,} tokens" for length, count in counts.items())


def _coverage(directory: Path, pool: str | None, executor: Executor) -> int:
    from preprocess.segmenters.mecab import JumanDic
    from preprocess.tokenization.coverage import compare, describe

    def report() -> dict[str, Any]:
        tokenizer, began = directory / "tokenizer", time.monotonic()
        training, words = read_training(tokenizer), tokenizer / "words.tsv"
        if training is not None and not words.is_file() and ("given" in training["settings"] or "text" in training["settings"]):
            raise ConfigError(
                f"{tokenizer}: not trained here on words, so that there is no list of words to compare with. Leave coverage out."
            )
        if training is None or not words.is_file():
            raise ConfigError(
                f"{tokenizer}: no finished tokenizer with its words.tsv. Run 'python -m preprocess tokenizer' first."
            )
        settings = training["settings"]
        if settings.get("model_type") == "bpe" or settings.get("pieces") == "characters":
            raise ConfigError(
                f"{tokenizer}: made without a list of seeds, so that sentencepiece alone would find the same pieces. Leave coverage out."
            )
        found = compare(words, tokenizer / "spm.model", settings, JumanDic())
        write_report(directory, {"coverage": {"result": found, "seconds": time.monotonic() - began, "ranks": 1}})
        return found

    found = executor.run_on_root(report)
    if executor.is_root:
        print(describe(found))
    return 0


READ_ONLY_VERBS: dict[str, Callable[[Path, str | None, Executor], int]] = {
    "status": _status,
    "verify": _verify,
    "coverage": _coverage,
}
"""Verbs that read a finished or running directory and do no work of a stage."""
