"""`jadeberta finetune`: one task of JGLUE, one setting or the whole grid, one process on one device.

Finished points are kept and skipped: the same command, given again after a kill, trains what is missing.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch
import transformers
from transformers import PreTrainedModel

from jadeberta.errors import ConfigError, NumericsError, OutputError
from jadeberta.finetune.encoder import Encoder, open_engine
from jadeberta.finetune.experiment import Trial
from jadeberta.finetune.grid import Conduct, Point, points_of, whole_grid
from jadeberta.finetune.jglue_files import find_files
from jadeberta.finetune.options import DEFAULT_SETTING, make_parser
from jadeberta.finetune.pretrained import load_source
from jadeberta.finetune.results_dir import RESULTS, Store
from jadeberta.finetune.results_table import document, scores_line, table
from jadeberta.finetune.tasks import TASKS
from jadeberta.shards import DirectoryLock, GroupLock


def main(arguments: list[str]) -> int:
    """Trains what is missing of the points asked for, and prints the table of all that are done."""
    options = make_parser().parse_args(arguments)
    points = points_of(whole_grid() if options.grid else options.setting or [DEFAULT_SETTING], options.seeds)
    wanted = _picked(points, options)
    out = options.out or Path("runs/finetune") / options.task
    transformers.utils.logging.set_verbosity_error()
    trial, remarks = _open(options)
    with trial.encoder.segmenter:
        identity = trial.identity()
        store = Store(out, identity)
        if options.dry_run:
            _describe(trial, points, store)
            return 0
        about = {
            "model_directory": str(trial.source.directory),
            "files": {name: str(path) for name, path in trial.files.items()},
            **identity,
            "remarks": remarks,
        }
        # The tasks of a job array hold the directory together; any other process holds it alone.
        lock = GroupLock(out, "--out", f"finetune {options.pool}") if options.pool else DirectoryLock(out, "--out")
        try:
            enough = store.model if options.save_models else store.path
            done = {r.point for r in store.finished() if r.diverged or enough(r.point).exists()}
            if missing := [point for point in wanted if point not in done]:
                _train(trial, missing, store, options)
            results = store.write_results(lambda results: document(trial.task, trial.conduct, about, results))
        except OSError as e:
            raise OutputError(f"{out}: cannot be written ({e}). Make room, or name another --out.") from e
        finally:
            lock.release()
    left = len(set(points) - {result.point for result in results})
    print(f"\n{trial.task.name}, {trial.source.directory}\n\n{table(trial.task, trial.conduct, results, left)}\n")
    print(f"written to {out / RESULTS}", flush=True)
    if all(result.diverged for result in results if result.point in wanted):
        raise NumericsError(f"{out}: the loss was not finite at any point of this call. Take a lower rate.")
    return 0


def _open(options: argparse.Namespace) -> tuple[Trial, list[str]]:
    """Model, segmenter and files of a call, and remarks about what differs from pre-training."""
    task = TASKS[options.task]
    conduct = Conduct(
        batch_size=options.batch_size or task.batch_size,
        max_length=options.max_length or task.max_length,
        schedule=options.schedule,
        precision=options.precision,
        choose_on=options.choose_on,
    )
    files = find_files(options.data, task, options.train, options.valid)
    source = load_source(options.model, options.weights)
    segmenter, remarks = open_engine(source.origin, source.directory, options.segmenter, options.segmenter_command)
    for remark in remarks:
        print(f"NOTE: {remark}.", flush=True)
    trial = Trial(task, source, Encoder(source.tokenizer, segmenter), conduct, files)
    trial.check()
    return trial, remarks


def _train(trial: Trial, points: Sequence[Point], store: Store, options: argparse.Namespace) -> None:
    """Trains points one after the other, each kept as soon as it is done."""
    data = trial.read()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    micro_batch_size = min(options.micro_batch_size or trial.conduct.batch_size, trial.conduct.batch_size)
    print(f"{trial.task.name}: {data}; points to train on {device.type}: {len(points)}", flush=True)
    for number, point in enumerate(points, 1):

        def keep(model: PreTrainedModel, point: Point = point) -> None:
            store.keep_model(point, lambda directory: trial.save(model, directory))

        result, predictions = trial.train(data, point, micro_batch_size, device, keep if options.save_models else None)
        store.keep(result, predictions)
        print(f"{number}/{len(points)} {point.name}: {scores_line(result)}, {result.seconds:.0f} s", flush=True)


def _describe(trial: Trial, points: Sequence[Point], store: Store) -> None:
    """What --dry-run says."""
    done, data = {result.point for result in store.finished()}, trial.read()
    examples = len(data.to_train_on(trial.task))
    print(f"{trial.task.name}: {data}; model {trial.source.directory}, {examples:,} examples to train on")
    for number, point in enumerate(points):
        print(f"  point {number}  {point.name}{'  done' if point in done else ''}")


def _picked(points: Sequence[Point], options: argparse.Namespace) -> Sequence[Point]:
    """The points of this process."""
    number = options.point
    if number is None:
        if options.pool is not None:
            raise ConfigError("--pool is for processes that share --out; give each its own --point.")
        return points
    if not 0 <= number < len(points):
        there = f"there are {len(points)} points, 0 to {len(points) - 1}"
        raise ConfigError(f"--point {number}: {there}; a job array needs as many tasks.")
    return [points[number]]
