"""The console script `jadeberta`: one parser and one file for each verb; nothing heavy is imported before it is needed."""

import argparse
import contextlib
import os
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path

from jadeberta import __version__
from jadeberta.cluster.environment import host_name
from jadeberta.errors import (
    CheckpointError,
    ConfigError,
    JadebertaError,
    NothingToResume,
    NumericsError,
    RequeueRequested,
    StopRequested,
)
from jadeberta.jobs.exit_reason import EXIT_REASONS_VARIABLE, write_exit_reason
from jadeberta.utils.command_line import OneSentenceParser
from jadeberta.utils.interrupts import INTERRUPTED, RANK_VARIABLES
from jadeberta.utils.paths import find_recipe, require_current_directory, user_path
from jadeberta.utils.processes import end_with_launcher
from jadeberta.utils.recipe_errors import explain_recipe_error
from jadeberta.utils.resources import explain_system_error, raise_open_files_limit

COMMON_ERRORS = (ConfigError, CheckpointError, NothingToResume, NumericsError, StopRequested, RequeueRequested)
"""Errors that all ranks meet together; rank 0 prints them, once."""
RANK_0_FIRST_S = 3.0
"""Seconds that the other ranks wait before they end with a common error: launchers end all ranks when the first has ended."""
Handler = Callable[[list[str]], int]


def main() -> None:
    """Runs the verb named on the command line and ends with its status."""
    end_with_launcher(os.environ)
    verbs = _verbs()
    width = max(map(len, verbs))
    listing = "\n".join(f"  {name:<{width}}  {text}" for name, (text, _) in verbs.items())
    parser = OneSentenceParser(
        prog="jadeberta",
        usage="jadeberta VERB [options]",
        description="Pre-trains a Japanese DeBERTa V2, from shards to a released model.",
        epilog=f"verbs:\n{listing}\n\n'jadeberta VERB --help' explains each.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=__version__)
    parser.add_argument("verb", choices=verbs, metavar="VERB", help="one of those below")
    arguments = sys.argv[1:]
    try:
        options = parser.parse_args(arguments[:1] or ["--help"])
        require_current_directory()
        raise_open_files_limit()
        if empty := next((a for a in arguments if a.startswith("--") and a.endswith("=--")), ""):
            raise ConfigError(f"{empty[:60]} gives no value.")  # argparse would hand on an empty list
        sys.exit(verbs[options.verb][1](arguments[1:]))
    except JadebertaError as e:
        _report(e)
        # A rank that stops here must not wait for the others in a collective's destructor.
        _exit_now(e.exit_status)
    except BrokenPipeError:
        _exit_now(1)
    except KeyboardInterrupt:
        # A run that has begun to train answers Ctrl-C by itself, and saves.
        if _rank() == 0:
            print("interrupted: ended at once", file=sys.stderr)
        _exit_now(INTERRUPTED)
    except Exception as e:
        if ours := explain_system_error(e):
            _report(ours)
        else:
            traceback.print_exc()
        # Without this the interpreter would wait at its exit for loader processes that take no signals.
        _exit_now(1)


def _verbs() -> dict[str, tuple[str, Handler]]:
    """Each verb with what its line of the listing says, and the function that runs it."""
    return {
        "pretrain": ("train on shards; resumes by itself", _pretrain),
        "evaluate": ("MLM accuracy per corpus, or bits per character of any text", _evaluate),
        "compare": ("models of any kind on the same texts, as a page", _compare),
        "checkpoint": ("what is on disk and whether it can be trusted", _checkpoint),
        "status": ("how far a run is, and where its time went", _status),
        "report": ("the same and more as one HTML file: verdict, curves, events", _report_page),
        "watch": ("looks at runs from outside, and calls when one needs a person", _watch),
        "publish-metrics": ("one clean run in W&B, MLflow, TensorBoard or Prometheus", _publish_metrics),
        "plan": ("days, checkpoint interval and goodput to expect on a cluster", _plan),
        "scaling": ("strong and weak scaling over world sizes: run, report", _scaling),
        "race": ("recipes against each other at equal FLOPs: plan, run, report", _race),
        "preflight": ("whether an allocation is fit; names the slow or broken host", _preflight),
        "finetune": ("a task of JGLUE, with one setting or the grid, scored", _finetune),
        "export": ("a directory that Hugging Face's classes load, with its card", _export),
        "verify-release": ("follows a release by hashes, from its weights to the dumps", _verify_release),
        "fill": ("the likeliest words for [MASK] in raw text", _fill),
        "publish": ("a release on the Hugging Face Hub, with its checkpoints", _publish),
        "completion": ("a script by which bash or zsh completes all of this", _completion),
    }


def _report(error: JadebertaError) -> None:
    """Prints an error: a common one on rank 0 alone, any other with the rank that met it."""
    rank = _rank()
    if rank == 0 or not isinstance(error, COMMON_ERRORS):
        where = f"rank {rank} on {host_name(os.environ)}: " if rank else ""
        print(f"{where}{type(error).__name__}: {error}", file=sys.stderr)
    if folder := os.environ.get(EXIT_REASONS_VARIABLE):
        write_exit_reason(Path(folder), rank, error.exit_status, str(error))
    if rank and isinstance(error, COMMON_ERRORS):
        # Rank 0 is still printing.
        time.sleep(RANK_0_FIRST_S)


def _rank() -> int:
    return next((int(os.environ[v]) for v in RANK_VARIABLES if os.environ.get(v, "").isdigit()), 0)


def _exit_now(status: int) -> None:
    """Ends the process without the interpreter's clean-up, which may wait for other ranks or for loaders."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):  # a full disk, or a reader that is gone
            stream.flush()
    os._exit(status)


PRETRAIN_OPTIONS = (
    ("--config RECIPE", "Recipe, a YAML file; options after it override its keys."),
    (
        "--resume auto|required|never",
        "What to do about earlier checkpoints: resume where there is one, require one, or refuse any (default auto).",
    ),
    (
        "--branch-from CHECKPOINT",
        "Start a new run from a step of another run, or from that run's newest step: weights, optimizer, counters and place in the data. "
        "A second start of the same run resumes it.",
    ),
    ("--dry-run", "Check everything, print what the run would be, start nothing."),
    ("--print_config", "Print the recipe with all options applied as YAML, start nothing."),
)
"""Options of `pretrain` that are no keys of a recipe, as its help shows them."""


def _pretrain(arguments: list[str]) -> int:
    if {"-h", "--help"} & set(arguments):
        from jadeberta.config.option_help import render_help

        print(render_help(list(PRETRAIN_OPTIONS)))
        return 0
    import jsonargparse

    from jadeberta.config import OLD_KEYS, add_recipe_arguments, known_keys, parse_recipe, recipe_from_arguments

    parser = jsonargparse.ArgumentParser(prog="jadeberta pretrain", exit_on_error=False, allow_abbrev=False)
    add_recipe_arguments(parser)
    parser.add_argument("--resume", choices=["auto", "required", "never"], default="auto")
    parser.add_argument("--branch-from", default=None)
    parser.add_argument("--dry-run", action="store_true")
    parser.add_argument("--local_rank", "--local-rank", type=int)  # the DeepSpeed launcher adds it
    recipe_file = _recipe_file(arguments)
    try:
        options, written = parse_recipe(parser, arguments)
    except ConfigError:
        raise
    except Exception as e:
        raise ConfigError(explain_recipe_error(str(e), recipe_file, [*known_keys(), *OLD_KEYS], arguments)) from e
    branch_from = user_path(options.branch_from, "--branch-from") if options.branch_from is not None else None
    recipe = recipe_from_arguments(options, written, branch_from)
    from jadeberta.pretrain import pretrain

    pretrain(recipe, options.resume, options.dry_run, branch_from)
    return 0


def _recipe_file(arguments: list[str]) -> Path | None:
    """The file after --config, None without it; raises ConfigError where there is no such file."""
    for index, argument in enumerate(arguments):
        name = arguments[index + 1] if argument == "--config" and index + 1 < len(arguments) else None
        name = argument.removeprefix("--config=") if argument.startswith("--config=") else name
        if name is not None:
            return find_recipe(name)
    return None


def _evaluate(arguments: list[str]) -> int:
    if arguments[:1] == ["text"]:
        from jadeberta.compare.evaluate_text import main
    else:
        from jadeberta.evaluation.mlm import main
    return main(arguments)


def _compare(arguments: list[str]) -> int:
    from jadeberta.compare.compare_command import main

    return main(arguments)


def _checkpoint(arguments: list[str]) -> int:
    from jadeberta.checkpoint.cli import main

    return main(arguments)


def _status(arguments: list[str]) -> int:
    from jadeberta.status.cli import main

    return main(arguments)


def _watch(arguments: list[str]) -> int:
    from jadeberta.alerts.cli import main

    return main(arguments)


def _report_page(arguments: list[str]) -> int:
    from jadeberta.report.cli import main

    return main(arguments)


def _publish_metrics(arguments: list[str]) -> int:
    from jadeberta.publish.cli import main

    return main(arguments)


def _plan(arguments: list[str]) -> int:
    from jadeberta.plan.cli import main

    return main(arguments)


def _scaling(arguments: list[str]) -> int:
    from jadeberta.scaling.cli import main

    return main(arguments)


def _race(arguments: list[str]) -> int:
    from jadeberta.race.cli import main

    return main(arguments)


def _preflight(arguments: list[str]) -> int:
    from jadeberta.preflight.cli import main

    return main(arguments)


def _finetune(arguments: list[str]) -> int:
    from jadeberta.finetune.cli import main

    return main(arguments)


def _export(arguments: list[str]) -> int:
    from jadeberta.release.export import main

    return main(arguments)


def _verify_release(arguments: list[str]) -> int:
    from jadeberta.provenance.cli import main

    return main(arguments)


def _fill(arguments: list[str]) -> int:
    from jadeberta.fill import main

    return main(arguments)


def _publish(arguments: list[str]) -> int:
    from jadeberta.hub.cli import main

    return main(arguments)


def _completion(arguments: list[str]) -> int:
    from jadeberta.completion import main

    return main(arguments, {verb: handler for verb, (_, handler) in _verbs().items()}, PRETRAIN_OPTIONS)
