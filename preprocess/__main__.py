"""`python -m preprocess STAGE --config RECIPE --out DIR`: the four stages, singly or all in a row, and the check of their result.

Under mpirun or srun the ranks share the work of each stage, and so do, without MPI, all processes that are given the same --pool.
What was done before under the same settings is not done again.
"""

import argparse
import logging
import os
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from jadeberta.shards import ConfigError, DirectoryLock, JadebertaError, ShardIndex, find_index, verify
from preprocess.config import PreprocessConfig
from preprocess.corpus_report import print_report, write_report
from preprocess.estimate import describe_plan
from preprocess.executors.executor import Comm, fit_to_travel
from preprocess.executors.file_executor import SILENCE_SECONDS, Pool, require_finished
from preprocess.executors.progress import Reporter, Screen, clear
from preprocess.job_status import describe_directory
from preprocess.load_config import load_config
from preprocess.segmenters import open_segmenter
from preprocess.workdir import progress_dir, read_training, remove_leftovers

STAGES = ("extract", "segment", "tokenizer", "pack")
REQUEUED_PATIENCE = 120.0


def main() -> None:
    """Ends with status 0 where every stage ran or `verify` found no fault."""
    parser = argparse.ArgumentParser(
        prog="python -m preprocess",
        allow_abbrev=False,
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="Any key of the recipe's preprocess section can be given as an option: --preprocess.segmenter.engine mecab",
    )
    parser.add_argument(
        "stage",
        choices=[*STAGES, "all", "status", "verify", "coverage"],
        help="all runs the four stages; status tells from another terminal how far they are; verify checks a finished directory; "
        "coverage compares its tokenizer with sentencepiece's own",
    )
    parser.add_argument(
        "directory", nargs="?", type=Path, help="status, verify, coverage: the directory to look at (or give --out)"
    )
    parser.add_argument("--config", type=Path, help="recipe; its preprocess section is read")
    parser.add_argument("--out", type=Path, help="where everything is written: index.json, the shards, tokenizer/, work/")
    parser.add_argument(
        "--corpora", type=Path, help="take the corpora found in this folder by their usual names, not the recipe's"
    )
    parser.add_argument(
        "--pool",
        metavar="NAME",
        help="share the work with every process that is started with this NAME, through files under --out: no MPI, any number of "
        "them, at any time; a name is used for one job. verify: also check that the pool finished 'all'",
    )
    parser.add_argument(
        "--pool-silence",
        type=float,
        default=SILENCE_SECONDS,
        metavar="SECONDS",
        help="after so long without a sign of life others do what a process of the pool held (%(default)s)",
    )
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="try a little of each corpus on this machine and say how many pieces and bytes there are, how many hours they will take "
        "and how much disk; write nothing",
    )
    options, overrides = parser.parse_known_args()
    if options.stage not in (*STAGES, "all") and overrides:
        parser.error(f"{options.stage} takes no option {overrides[0]}")
    comm = _join(options)
    screen = Screen(sys.stdout)
    logging.basicConfig(level=logging.INFO if comm.is_root else logging.WARNING, handlers=[screen])
    directory = options.directory or options.out
    try:
        if options.stage in LOOKS and directory is None:
            print(f"python -m preprocess {options.stage}: name the directory", file=sys.stderr)
            status = 2
        elif options.stage in LOOKS:
            status = LOOKS[options.stage](directory, options.pool, comm)
        else:
            status = _run(options, overrides, comm, screen)
    except JadebertaError as e:
        if comm.tells(e):
            print(f"{type(e).__name__}: {e}", file=sys.stderr, flush=True)
        status = e.exit_status
    except KeyboardInterrupt:
        print("interrupted; the same command goes on from here", file=sys.stderr, flush=True)
        comm.abort(130)
    except Exception:
        traceback.print_exc()
        comm.abort(1)
    comm.leave()
    sys.exit(status)


def _join(options: argparse.Namespace) -> Comm:
    """Those that share the work: a pool where one is named, else MPI or this process alone."""
    verifies = options.stage == "verify"
    out = (options.directory or options.out) if verifies else options.out
    try:
        if options.pool is None or out is None or options.dry_run or (verifies and not out.is_dir()):
            return Comm()
        return Pool(out, options.pool, options.stage, options.pool_silence, holds=not verifies)
    except (JadebertaError, OSError) as e:
        error = fit_to_travel(e, "this process")
        print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
        sys.exit(getattr(error, "exit_status", 1))


def _run(options: argparse.Namespace, overrides: list[str], comm: Comm, screen: Screen) -> int:
    config = comm.run_on_root(lambda: load_config(options.config, tuple(overrides), options.corpora))
    if options.out is None:
        print("python -m preprocess: --out DIR is missing", file=sys.stderr)
        return 2
    wanted = STAGES if options.stage == "all" else (options.stage,)
    if "segment" in wanted:
        # Found out now, a missing segmenter costs nothing; after extract it would cost hours.
        comm.everywhere(lambda: open_segmenter(config.segmenter).close())
    if options.dry_run:
        lines = comm.run_on_root(lambda: describe_plan(config, options.out, wanted, comm.size))
        if comm.is_root:
            print("\n".join(lines))
        return 0
    # Held until the process ends; a job that was killed holds nothing. A pool holds it together.
    held: list[DirectoryLock] = []

    def prepare() -> None:
        if options.pool is None:
            # A requeued job may come before the last of its former life is gone.
            patience = REQUEUED_PATIENCE if os.environ.get("SLURM_RESTART_COUNT", "0") != "0" else 0.0
            held.append(DirectoryLock(options.out / "work", "--out", patience))
            remove_leftovers(options.out)
        clear(progress_dir(options.out))

    comm.run_on_root(prepare)
    reporter = Reporter(progress_dir(options.out), comm.rank, comm.account, screen.show if comm.is_root else None)
    try:
        reports: dict[str, Any] = {}
        for stage in wanted:
            began = time.monotonic()
            comm.account.open_stage(stage)
            result = _work(stage)(config, options.out, comm)
            reports[stage] = {"result": result, "seconds": time.monotonic() - began, "ranks": comm.size}
            if comm.is_root:
                logging.getLogger(__name__).info("%s: done in %.1f s on %d ranks", stage, reports[stage]["seconds"], comm.size)
    finally:
        reporter.stop()
        screen.close_line()

    def conclude() -> None:
        print_report(write_report(options.out, reports))
        clear(progress_dir(options.out))
        remove_leftovers(options.out)  # of a process of a pool that was killed while the others went on
        comm.finish()

    comm.run_on_root(conclude)
    for lock in held:
        lock.release()
    return 0


def _work(stage: str) -> Callable[[PreprocessConfig, Path, Comm], Any]:
    """A stage's function; imported when it is needed, as each brings libraries of its own."""
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


def _status(directory: Path, pool: str | None, comm: Comm) -> int:
    if comm.is_root:
        print("\n".join(describe_directory(directory)))
    return 0


def _verify(directory: Path, pool: str | None, comm: Comm) -> int:
    def check() -> list[str]:
        if pool is not None:
            require_finished(directory, pool, "all")
        return verify(directory, progress=lambda line: print(line, flush=True))

    faults = comm.run_on_root(check)
    if comm.is_root:
        for fault in faults:
            print(fault, file=sys.stderr)
        if not faults:
            index = ShardIndex.load(find_index(directory))
            sequences = sum(entry.sequences for corpus in index.corpora.values() for entry in [*corpus.train, *corpus.valid])
            found = f"{sequences:,} sequences in {len(index.corpora)} corpora"
            print(f"{directory}: {found}, all as index.json says; {index.fingerprint[:16]}")
    return 1 if faults else 0


def _coverage(directory: Path, pool: str | None, comm: Comm) -> int:
    from preprocess.segmenters.mecab import JumanDic
    from preprocess.tokenization.coverage import compare, describe

    def report() -> dict[str, Any]:
        tokenizer, began = directory / "tokenizer", time.monotonic()
        training, words = read_training(tokenizer), tokenizer / "words.tsv"
        if training is None or not words.is_file():
            raise ConfigError(
                f"{tokenizer}: no finished tokenizer with its words.tsv. Run 'python -m preprocess tokenizer' first."
            )
        found = compare(words, tokenizer / "spm.model", training["settings"]["character_coverage"], JumanDic())
        write_report(directory, {"coverage": {"result": found, "seconds": time.monotonic() - began, "ranks": 1}})
        return found

    found = comm.run_on_root(report)
    if comm.is_root:
        print(describe(found))
    return 0


LOOKS: dict[str, Callable[[Path, str | None, Comm], int]] = {"status": _status, "verify": _verify, "coverage": _coverage}
"""What looks at a directory and does none of the work."""


if __name__ == "__main__":
    main()
