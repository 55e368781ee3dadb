"""`jadeberta finetune`: fine-tunes on one JGLUE task, with one setting or the full grid, in one process on one device.

A trial is one training with one setting and one seed; files and options call it a point. Finished trials are kept and skipped: the same
command, given again after a kill, trains the missing ones.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import transformers
from transformers import DebertaV2Config, PretrainedConfig, PreTrainedModel

from jadeberta.cluster.device import choose_single_device, describe_device
from jadeberta.errors import ConfigError, InputError, NumericsError, OutputError
from jadeberta.finetune.comparison import models_table
from jadeberta.finetune.encoder import ENGINES, Encoder, open_engine
from jadeberta.finetune.experiment import Experiment
from jadeberta.finetune.grid import FinetuneConfig, Trial, full_grid, trials_of
from jadeberta.finetune.jglue_files import find_files
from jadeberta.finetune.pretrained import load_pretrained, without_weights
from jadeberta.finetune.results_dir import RESULTS, ResultsDir
from jadeberta.finetune.results_table import format_results, results_json, scores_line
from jadeberta.finetune.tasks import TASKS
from jadeberta.model.attention.triton import require as require_triton
from jadeberta.model.deberta import ATTENTION_BACKENDS
from jadeberta.shards import DirectoryLock, GroupLock
from jadeberta.utils.command_line import OneSentenceParser
from jadeberta.utils.durations import format_duration
from jadeberta.utils.paths import path_option

DEFAULT_SETTING = (3e-5, 3)
DEFAULT_SEED = 42


def main(arguments: list[str]) -> int:
    """Trains the missing trials and prints the table of all finished ones.

    Raises:
        ConfigError: options do not fit together, or to the model.
        OutputError: --out cannot be written.
        NumericsError: the loss was not finite in any trial of this call.
    """
    if arguments[:1] == ["table"]:
        return models_table.main(arguments[1:])
    options = _make_parser().parse_args(arguments)
    return _run_all(options) if options.task == "all" else _run(options)


def _run_all(options: argparse.Namespace) -> int:
    """Runs every task whose files are there, each in its folder of --out."""
    alone = ("point", "pool", "train", "valid", "batch_size", "max_length")
    if given := [name for name in alone if getattr(options, name) is not None]:
        raise ConfigError(f"--{given[0].replace('_', '-')} is for one task; name it instead of --task all.")
    tasks = []
    for name, task in TASKS.items():
        try:
            find_files(options.data, task)
            tasks.append(name)
        except InputError:
            print(f"NOTE: {name} is left out, because its files are not in {options.data}.", flush=True)
    if not tasks:
        raise InputError(f"{options.data}: no task of JGLUE there. Name JGLUE's folder 'datasets'.")
    for name in tasks:
        out = (options.out or Path("runs/finetune")) / name
        _run(argparse.Namespace(**vars(options) | {"task": name, "out": out}))
    return 0


def _run(options: argparse.Namespace) -> int:
    """Trains the missing trials of one task."""
    trials = trials_of(full_grid() if options.grid else options.setting or [DEFAULT_SETTING], options.seeds)
    wanted = _picked(trials, options)
    out = options.out or Path("runs/finetune") / options.task
    transformers.utils.logging.set_verbosity_error()
    experiment, remarks = _open(options)
    with experiment.encoder.segmenter:
        identity = experiment.identity()
        results_dir = ResultsDir(out, identity)
        if options.dry_run:
            _describe(experiment, trials, results_dir)
            return 0
        about = {
            "model_directory": str(experiment.pretrained.directory),
            "files": {name: str(path) for name, path in experiment.files.items()},
            **identity,
            "remarks": remarks,
        }
        # The tasks of a job array hold the directory together; any other process holds it alone.
        lock = GroupLock(out, "--out", f"finetune {options.pool}") if options.pool else DirectoryLock(out, "--out")
        try:
            enough = results_dir.model if options.save_models else results_dir.path
            # A trial that diverged has no model, so that is no reason to train it again.
            done = {r.trial for r in results_dir.finished() if r.diverged or enough(r.trial).exists()}
            if missing := [trial for trial in wanted if trial not in done]:
                _train(experiment, missing, results_dir, options)
            about["trivial"] = trivial = results_dir.trivial() or experiment.trivial()
            results = results_dir.write_results(lambda results: results_json(experiment.task, experiment.config, about, results))
        except OSError as e:
            raise OutputError(f"{out}: cannot be written ({e}). Make room, or name another --out.") from e
        finally:
            lock.release()
    left = len(set(trials) - {result.trial for result in results})
    results_table = format_results(experiment.task, experiment.config, results, left, trivial)
    print(f"\n{experiment.task.name}, {experiment.pretrained.directory}\n\n{results_table}\n")
    print(f"written to {out / RESULTS}", flush=True)
    if all(result.diverged for result in results if result.trial in wanted):
        raise NumericsError(f"{out}: the loss was not finite at any point of this call. Take a lower rate.")
    return 0


def _open(options: argparse.Namespace) -> tuple[Experiment, list[str]]:
    """Opens model, segmenter and files; returns them with remarks on differences from pre-training."""
    task = TASKS[options.task]
    files = find_files(options.data, task, options.train, options.valid)
    pretrained = load_pretrained(options.model, options.weights)
    config = FinetuneConfig(
        batch_size=options.batch_size or task.batch_size,
        max_length=options.max_length or task.max_length,
        schedule=options.schedule,
        precision=options.precision,
        choose_on=options.choose_on,
        attention=_attention(options.attention, pretrained.config),
    )
    if options.from_random:
        pretrained = without_weights(pretrained)
    # A model from elsewhere that reads text without a segmenter has the normaliser of its own tokenizer alone.
    named = {"normaliser": "none"} if options.segmenter == "none" else {}
    keeps_text = (pretrained.origin or named).get("normaliser") == "none"
    segmenter, remarks = open_engine(pretrained.origin, pretrained.directory, options.segmenter, options.segmenter_command)
    for remark in remarks:
        print(f"NOTE: {remark}.", flush=True)
    experiment = Experiment(
        task,
        pretrained,
        Encoder(pretrained.tokenizer, segmenter, keeps_text, pretrained.own),
        config,
        files,
    )
    experiment.check()
    return experiment, remarks


def _attention(given: str | None, config: PretrainedConfig) -> str:
    """The attention of a model; raises ConfigError where the given one is not for it."""
    if isinstance(config, DebertaV2Config):
        if given == "fused":
            require_triton(getattr(config, "attention_head_size", config.hidden_size // config.num_attention_heads))
        return given or "sdpa"
    if given not in (None, "eager"):
        raise ConfigError(f"--attention {given} is for DeBERTa V2, and the model is a {config.model_type}. Leave the option out.")
    return "eager"


def _train(experiment: Experiment, trials: Sequence[Trial], results_dir: ResultsDir, options: argparse.Namespace) -> None:
    """Trains trials one after another; each result is written as soon as it is known."""
    data = experiment.read()
    device = choose_single_device()
    print(f"device {describe_device(device)}", flush=True)
    micro_batch_size = min(options.micro_batch_size or experiment.config.batch_size, experiment.config.batch_size)
    print(f"{experiment.task.name}: {data}; points to train on {device.type}: {len(trials)}", flush=True)
    for number, trial in enumerate(trials, 1):

        def keep(model: PreTrainedModel, trial: Trial = trial) -> None:
            results_dir.keep_model(trial, lambda directory: experiment.save(model, directory))

        result, predictions = experiment.train(data, trial, micro_batch_size, device, keep if options.save_models else None)
        results_dir.keep(result, predictions)
        print(f"{number}/{len(trials)} {trial.name}: {scores_line(result)}, {format_duration(result.seconds)}", flush=True)


def _describe(experiment: Experiment, trials: Sequence[Trial], results_dir: ResultsDir) -> None:
    """Prints the listing of --dry-run."""
    done, data = {result.trial for result in results_dir.finished()}, experiment.read()
    examples = len(data.to_train_on(experiment.task))
    print(f"{experiment.task.name}: {data}; model {experiment.pretrained.directory}, {examples:,} examples to train on")
    for number, trial in enumerate(trials):
        print(f"  point {number}  {trial.name}{'  done' if trial in done else ''}")


def _picked(trials: Sequence[Trial], options: argparse.Namespace) -> Sequence[Trial]:
    """The trials of this process."""
    number = options.point
    if number is None:
        if options.pool is not None:
            raise ConfigError("--pool is for processes that share --out; give each its own --point.")
        return trials
    if not 0 <= number < len(trials):
        there = f"there are {len(trials)} points, 0 to {len(trials) - 1}"
        raise ConfigError(f"--point {number}: {there}; a job array needs as many tasks.")
    return [trials[number]]


def _setting(text: str) -> tuple[float, int]:
    try:
        lr, epochs = text.split(",")
        setting = float(lr), int(epochs)
    except ValueError:
        setting = 0.0, 0
    if not 0 < setting[0] < 1 or setting[1] < 1:
        raise argparse.ArgumentTypeError(f"'{text}' is not a learning rate and a number of epochs, such as 3e-5,4")
    return setting


def _seeds(text: str) -> list[int]:
    if not all(part.isdecimal() and int(part) < 2**32 for part in text.split(",")):
        raise argparse.ArgumentTypeError(f"'{text}' is not a list of seeds from 0 to 4294967295, such as 42,43,44")
    return [int(part) for part in text.split(",")]


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"'{text}' is not a whole number above 0")
    return int(text)


def _make_parser() -> OneSentenceParser:
    parser = OneSentenceParser(
        prog="jadeberta finetune",
        description="Fine-tunes a model on a task of JGLUE and scores it, with one setting or the grid of JGLUE's authors. "
        "'jadeberta finetune table DIR...' puts results into one table.",
        epilog="Points that are done are skipped: give the same command again after an interruption. docs/fine-tune.md explains more.",
    )
    parser.add_argument("--task", choices=[*TASKS, "all"], required=True, help="task of JGLUE, or all whose files are in --data")
    parser.add_argument(
        "--model", type=path_option, required=True, help="an exported directory, a checkpoint, or a run (its newest one)"
    )
    parser.add_argument(
        "--data",
        type=path_option,
        help="JGLUE's folder 'datasets', or the task's folder in it; not needed with --train and --valid",
    )
    parser.add_argument("--out", type=path_option, help="directory for results (default: runs/finetune/TASK)")
    which = parser.add_mutually_exclusive_group()
    which.add_argument(
        "--setting",
        type=_setting,
        action="append",
        metavar="LR,EPOCHS",
        help="such as 3e-5,4; may be given again (default: 3e-5,3)",
    )
    which.add_argument("--grid", action="store_true", help="5e-5, 3e-5 and 2e-5, each for 3 and 4 epochs")
    parser.add_argument(
        "--seeds", type=_seeds, default=[DEFAULT_SEED], metavar="N,N", help="each setting once for each (default: 42)"
    )
    parser.add_argument(
        "--choose-on",
        choices=["valid", "fold"],
        default="valid",
        help="what settings are compared on; fold: a tenth of train, kept out",
    )
    parser.add_argument("--point", type=int, metavar="N", help="only the N-th point, from 0, as --dry-run numbers them")
    parser.add_argument("--pool", metavar="NAME", help="with --point: processes of the same name share --out")
    parser.add_argument("--train", type=path_option, metavar="FILE", help="a file to train on instead")
    parser.add_argument("--valid", type=path_option, metavar="FILE", help="a file to be scored on instead")
    parser.add_argument("--batch-size", type=_count, help="sequences of a step (default: 32; jcommonsenseqa 64)")
    parser.add_argument(
        "--micro-batch-size", type=_count, help="sequences at once, less for less memory (default: all of a batch)"
    )
    parser.add_argument(
        "--max-length", type=_count, help="pieces of a sequence (default: 128; jsquad 384, marc-ja 512, jcommonsenseqa 64)"
    )
    parser.add_argument(
        "--schedule", choices=["linear", "cosine"], default="linear", help="after a warm-up of a tenth of the steps"
    )
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="fp32", help="bf16: autocast, weights stay fp32")
    parser.add_argument(
        "--attention",
        choices=ATTENTION_BACKENDS,
        help="of a DeBERTa V2: sdpa (default), fused (Triton kernels) or eager (transformers' own); other models have theirs",
    )
    parser.add_argument("--weights", choices=["trained", "ema"], default="trained", help="ema: a checkpoint's running average")
    parser.add_argument("--from-random", action="store_true", help="a control: the model's architecture with random weights")
    parser.add_argument("--segmenter", choices=ENGINES, help="for a model that does not say which one made its pre-training text")
    parser.add_argument("--segmenter-command", default="", metavar="COMMAND", help="program and options of jumanpp or juman")
    parser.add_argument("--save-models", action="store_true", help="keep every fine-tuned model in OUT/models")
    parser.add_argument("--dry-run", action="store_true", help="read and check everything, list the points, train nothing")
    return parser
