"""`jadeberta preflight`: the command line, read the same way by every rank."""

import argparse
import os
import sys
from pathlib import Path

from jadeberta.cluster.environment import detect
from jadeberta.config import load_recipe
from jadeberta.errors import ConfigError
from jadeberta.preflight.checks import DEVICE_SHARE, LINK_SHARE
from jadeberta.utils.command_line import OneSentenceParser, positive

DESCRIPTION = """Whether this allocation is fit to train on, in less than a minute: one process a rank, by any launcher.

It compares versions and clocks, looks for the shards, disks, memory and devices, and measures matrix products, writing and
the interconnect between each two hosts and over all ranks. Rank 0 prints a table and writes preflight.json; a host that is
slow, broken or missing is named. It needs no checkpoint and changes none, and it does not load DeepSpeed."""
EPILOG = """Keys of the recipe are options too, such as --run.dir DIR.
exit status: 0 fit; 1 not fit, or no verdict in time; 2 wrong options, recipe or environment"""


def main(arguments: list[str]) -> int:
    """Runs one rank of a preflight. Raises ConfigError for a recipe or options that do not fit together."""
    options, overrides = _parser().parse_known_args(arguments)
    recipe = load_recipe(options.config, tuple(overrides))
    if not recipe.data.shards:
        raise ConfigError("data.shards is not set; give it in the recipe or as --data.shards.")
    process = detect(os.environ)
    # Whoever does not answer is told of in a sentence; torch's own lines and stacks would come from every rank beside it.
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "FATAL")
    from jadeberta.preflight.runner import Preflight
    from jadeberta.preflight.timeouts import Later

    json = options.json or Path(recipe.run.dir) / "preflight.json"
    status = Preflight(recipe, process, json, options.patience, options.siblings, options.links).run()
    if Later.stuck:  # an ordinary end might wait for what hangs
        sys.stdout.flush()
        os._exit(status)
    return status


def _parser() -> OneSentenceParser:
    parser = OneSentenceParser(
        prog="jadeberta preflight",
        allow_abbrev=False,
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--config", type=Path, required=True, metavar="RECIPE", help="recipe, a YAML file")
    parser.add_argument("--json", type=Path, metavar="FILE", help="where the account goes (default RUN_DIR/preflight.json)")
    shares = (
        ("--siblings", DEVICE_SHARE, "slow: a device below this part of the median of all"),
        ("--links", LINK_SHARE, "slow: a host whose best link to another is below this part of the median of all hosts"),
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
    parser.add_argument("--resume", help=argparse.SUPPRESS)  # EXTRA in slurm/ goes to the training too
    return parser


def _share(text: str) -> float:
    value = positive(text)
    if value >= 1:
        raise argparse.ArgumentTypeError(f"'{text}' is not a part below 1")
    return value
