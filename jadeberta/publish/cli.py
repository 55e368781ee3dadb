"""`jadeberta publish-metrics RUN --to ...`: brings a run to the viewer that people use already; from a login node, or from cron."""

import argparse
import time
from pathlib import Path

from jadeberta.errors import ConfigError, OutputError
from jadeberta.publish.clean_run import CleanRun, read_clean_run
from jadeberta.utils.command_line import OneSentenceParser, ParagraphFormatter
from jadeberta.utils.locks import DirectoryLock
from jadeberta.utils.paths import path_option

TARGETS = ("wandb", "mlflow", "tensorboard", "prometheus")
FILES_ONLY = ("tensorboard", "prometheus")
MOST_POINTS = 30_000
"""Steps that W&B and MLflow get by default: a run of more is thinned, because they take milliseconds for each."""


def main(arguments: list[str]) -> int:
    """Publishes a run.

    Raises:
        InputError: the directory holds no run.
        ConfigError: an option is wrong, a package is missing, or a service refuses the user.
        OutputError: the service cannot be reached, or the files cannot be written.
    """
    parser = OneSentenceParser(
        prog="jadeberta publish-metrics",
        description="Publishes one clean run out of all its attempts: undone steps are left out; held-out accuracy, system figures and "
        "events are there too.\n\nIt only reads the run directory, so it can be called at any time, as often as you like, by cron too: "
        "nothing is published twice, and what the run has undone since is taken back.",
        formatter_class=ParagraphFormatter,
    )
    parser.add_argument("run", type=path_option, metavar="RUN", help="run directory, run.dir of the recipe")
    parser.add_argument("--to", required=True, choices=TARGETS, help="viewer")
    parser.add_argument(
        "--out",
        type=path_option,
        metavar="DIR",
        help="write files there: an offline directory of W&B, a file store of MLflow, event files of TensorBoard, or a text file for "
        "node_exporter; without it W&B and MLflow go to their service",
    )
    parser.add_argument("--every", type=whole_number, metavar="STEPS", help="one step out of so many; default: all, and for W&B and MLflow "
                        f"at most {MOST_POINTS:,} of the whole run")  # fmt: skip
    parser.add_argument("--project", default="jadeberta", help="project of W&B, experiment of MLflow (default jadeberta)")
    options = parser.parse_args(arguments)
    if options.out is None and options.to in FILES_ONLY:
        raise ConfigError(f"--to {options.to} writes files; name their directory with --out.")
    if not options.project.strip() or len(options.project) > 128 or not options.project.isprintable() or "/" in options.project:
        raise ConfigError(
            "--project is empty, longer than 128 characters, or holds characters that no project can have; correct it."
        )
    if options.out is not None:
        _require_elsewhere(options.out, options.run)
    run = read_clean_run(options.run, time.time())
    every = options.every or (1 if options.to in FILES_ONLY else _thinned(run))
    print(publish(run, options.to, options.out, every, options.project))
    return 0


def whole_number(text: str) -> int:
    """An option's value of at least 1."""
    if not text.isascii() or not text.isdigit() or len(text) > 12 or not int(text):
        raise argparse.ArgumentTypeError(f"'{text[:40]}' is not a whole number of at least 1")
    return int(text)


def publish(run: CleanRun, to: str, out: Path | None, every: int, project: str) -> str:
    """Publishes a run to one of `TARGETS`; returns what was done.

    Args:
        run: what to publish.
        to: one of `TARGETS`.
        out: directory for files; None: the service.
        every: of `CleanRun.points`.
        project: project of W&B, experiment of MLflow.

    Raises:
        ConfigError, OutputError: as `main`.
    """
    try:
        if to == "prometheus":
            from jadeberta.publish.to_prometheus import publish as write_text

            assert out is not None
            return write_text(run, out)  # replaced in one step: two calls at once do no harm
        from jadeberta.publish import to_mlflow, to_tensorboard, to_wandb

        lock = DirectoryLock(out if out is not None else to_wandb.cache(run), "--out")
        try:
            if to == "tensorboard":
                assert out is not None
                return to_tensorboard.publish(run, out, every)
            return (to_wandb if to == "wandb" else to_mlflow).publish(run, out, every, project)
        finally:
            lock.release()
    except OSError as e:
        raise OutputError(
            f"{e.filename or out}: cannot be written ({e.strerror or e}); make room, or choose another --out."
        ) from None


def _require_elsewhere(out: Path, run: Path) -> None:
    """Raises ConfigError for a directory that the training itself locks or writes."""
    if out.resolve() == run.resolve() or out.resolve() in [
        (run / name).resolve() for name in ("checkpoints", "tensorboard", "logs")
    ]:
        raise ConfigError(f"--out {out}: the run itself writes there; choose another directory.")


def _thinned(run: CleanRun) -> int:
    """Steps to a point: the same during a whole run, so that what is published stays."""
    steps = run.facts.goal.max_steps or (int(run.steps[-1]) if len(run.steps) else 1)
    return max(1, -(-steps // MOST_POINTS))
