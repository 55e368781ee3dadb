"""`jadeberta preflight`: the command line, read the same way by every rank."""

import argparse
import contextlib
import os
import sys
from pathlib import Path

from jadeberta.cluster.environment import detect
from jadeberta.config import load_recipe
from jadeberta.errors import ConfigError
from jadeberta.preflight.checks import DEVICE_SHARE, LINK_SHARE
from jadeberta.utils.command_line import OneSentenceParser, ParagraphFormatter, positive
from jadeberta.utils.paths import path_option

DESCRIPTION = """Checks within a minute (on GPUs within 80 s) whether this allocation is fit to train on. Run one process per rank,
with any launcher.

It compares versions and clocks, checks shards, disks, memory and devices, and measures matrix products, writes and the
interconnect between each two hosts and over all ranks. Rank 0 prints a table, writes preflight.json and names hosts that are
slow, broken or missing. It reads and writes no checkpoint, and it does not load DeepSpeed."""
EPILOG = """Keys of the recipe are options too, such as --run.dir DIR.

exit status: 0 fit; 1 not fit, or no verdict in time; 2 wrong options, recipe or environment"""


def main(arguments: list[str]) -> int:
    """Runs one rank of a preflight. Raises ConfigError for a recipe or options that do not fit together."""
    options, overrides = _parser().parse_known_args(arguments)
    recipe = load_recipe(options.config, tuple(overrides), options.branch_from)
    if not recipe.data.shards:
        raise ConfigError("data.shards is not set; give it in the recipe or as --data.shards.")
    process = detect(os.environ)
    # A rank that does not answer is reported in one sentence; torch's own messages and stacks would come from every rank beside it.
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "FATAL")
    from jadeberta.preflight.runner import Preflight
    from jadeberta.preflight.timeouts import BackgroundCall, TimedOut, call_with_timeout

    json = options.json or Path(recipe.run.dir) / "preflight.json"
    # A file system that hangs is told by the preflight itself.
    with contextlib.suppress(OSError, TimedOut):
        if call_with_timeout(2.0, lambda: json.exists() and not json.is_file()):
            raise ConfigError(f"--json {json}: a folder, a pipe or a device; name a file, which is replaced.")
    status = Preflight(recipe, process, json, options.patience, options.siblings, options.links).run()
    if BackgroundCall.stuck:  # a normal exit may wait for the call that hangs
        sys.stdout.flush()
        os._exit(status)
    return status


def _parser() -> OneSentenceParser:
    parser = OneSentenceParser(
        prog="jadeberta preflight",
        allow_abbrev=False,
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=ParagraphFormatter,
    )
    parser.add_argument("--config", type=path_option, required=True, metavar="RECIPE", help="recipe, a YAML file")
    parser.add_argument(
        "--json", type=path_option, metavar="FILE", help="where the report is written (default RUN_DIR/preflight.json)"
    )
    shares = (
        ("--siblings", DEVICE_SHARE, "a device below this share of the median of all is slow"),
        ("--links", LINK_SHARE, "a host whose best link to another is below this share of the median of all hosts is slow"),
    )
    for name, default, text in shares:
        parser.add_argument(name, type=_share, default=default, metavar="X", help=f"{text} (default {default})")
    parser.add_argument(
        "--patience",
        type=positive,
        default=30.0,
        metavar="S",
        help="seconds that ranks wait for each other at the beginning (default 30)",
    )
    # The variable EXTRA of slurm/ is passed to preflight and to training.
    parser.add_argument("--resume", help=argparse.SUPPRESS)
    parser.add_argument("--branch-from", type=path_option, help=argparse.SUPPRESS)
    return parser


def _share(text: str) -> float:
    value = positive(text)
    if value >= 1:
        raise argparse.ArgumentTypeError(f"'{text}' is not a share below 1")
    return value
