"""`jadeberta plan`: what a recipe will cost on a cluster, and how often to save; every assumption is printed with its source."""

import argparse
import textwrap
from collections.abc import Callable
from dataclasses import asdict, replace

import orjson

from jadeberta.config import Recipe, load_recipe
from jadeberta.config.phases import phases_of, recipe_in
from jadeberta.errors import ConfigError, ShardError
from jadeberta.model.load import count_parameters_of
from jadeberta.plan.forecast import DEFAULTS, ClusterShape, Forecast, Input, forecast, measured_inputs
from jadeberta.plan.gpu_memory import state_bytes
from jadeberta.plan.optimizer_memory import saved_bytes
from jadeberta.plan.world_sizes import DEFAULTS as NETWORK_DEFAULTS
from jadeberta.plan.world_sizes import WorldSize, compare, network_inputs, read_preflight, sizes_table, zero_of
from jadeberta.shards.index import ShardIndex, find_index
from jadeberta.status.attempts import read_run
from jadeberta.utils.command_line import OneSentenceParser, not_negative, positive
from jadeberta.utils.paths import path_option
from jadeberta.utils.text_table import format_table

WIDTH = 130
"""Columns to which the sources are wrapped."""

NUMBERS: dict[str, tuple[Callable[[str], float], str]] = {
    "tokens_per_second_per_gpu": (positive, "measured speed of one GPU; takes precedence over --mfu"),
    "mfu": (positive, "share of the device's peak that the training reaches"),
    "mtbf_node_hours": (positive, "hours between two failures of one node"),
    "stall_seconds": (not_negative, "time for which the training stands still for a save"),
    "write_seconds": (not_negative, "time of the background write after that, until the checkpoint counts"),
    "restart_seconds": (not_negative, "time from the start of a job until it trains"),
    "queue_seconds": (not_negative, "time from the end of a job until the start of the next"),
    "time_limit_hours": (not_negative, "time limit of a job in Slurm; 0: none"),
    "link_gbps": (positive, "bandwidth of a node's network, all adapters together, Gbit/s"),
    "link_latency_us": (not_negative, "latency of a hop from node to node, microseconds"),
    "nvlink_gb_per_s": (positive, "bandwidth of the ring within a node, GB/s (assumed: by --device)"),
    "nvlink_latency_us": (not_negative, "latency of a hop within a node, microseconds"),
    "spread": (not_negative, "standard deviation of a rank's computing time, as a share of it"),
}
"""Options with a number: parser and help text."""
ASSUMED = DEFAULTS | NETWORK_DEFAULTS
"""Assumed values of all options."""

MOST_OF_A_KIND = 100_000
"""Most nodes of a job, and most GPUs of a node."""


def main(arguments: list[str]) -> int:
    """Prints the plan of a run.

    Raises:
        ConfigError: the recipe and the options do not fit together.
        InputError: --measured or --preflight name no such file.
    """
    options, overrides = _parser().parse_known_args(arguments)
    recipe = load_recipe(options.config, tuple(overrides))
    if options.mfu is not None and options.mfu > 1:
        raise ConfigError(f"--mfu {options.mfu:g} is a share of the device's peak and must not be above 1.")
    if options.mfu is not None and options.tokens_per_second_per_gpu is not None:
        raise ConfigError("--mfu and --tokens-per-second-per-gpu say the same thing; give one of them.")
    inputs: dict[str, Input] = {}
    if options.measured is not None:
        ledger, steps, _ = read_run(options.measured)
        inputs |= measured_inputs(ledger, steps, str(options.measured))
    for name in NUMBERS:
        if (value := getattr(options, name)) is not None:
            inputs[name] = Input(value, "given", "")
    # A given --mfu must win over a speed that --measured found, and a speed takes precedence over mfu.
    if options.mfu is not None:
        inputs.pop("tokens_per_second_per_gpu", None)
    cluster = ClusterShape(options.nodes[0], options.gpus_per_node, options.device)
    # `forecast` prints every input it gets, so those of the network go to the comparison alone.
    of_network = {name: inputs.pop(name) for name in (*NETWORK_DEFAULTS, "nvlink_gb_per_s") if name in inputs}
    length, source = row_length(recipe)
    result = forecast(recipe, cluster, inputs, count_parameters_of(recipe), length)
    stage = zero_of(recipe)[0]
    ranks = cluster.nodes * cluster.gpus_per_node
    state = state_bytes(result.parameters, recipe.training, stage, ranks)
    state -= saved_bytes(recipe, result.parameters) // (ranks if stage else 1)
    result = replace(result, state_bytes=state)
    sizes: list[WorldSize] = []
    if len(options.nodes) > 1 or options.preflight is not None:
        preflight = {} if options.preflight is None else read_preflight(options.preflight)
        used = network_inputs(options.device, of_network, preflight, str(options.preflight))
        sizes = compare(*_comparable(recipe, result, cluster, inputs), options.nodes, cluster, used, preflight)
        result = replace(result, inputs=result.inputs | used)
    elif options.link_gbps is not None:
        raise ConfigError("--link-gbps says how fast nodes talk to each other; name several sizes, such as --nodes 1,2,4.")
    if options.json:
        print(orjson.dumps(asdict(result) | {"sizes": [asdict(s) for s in sizes]}, option=orjson.OPT_INDENT_2).decode())
    else:
        is_taken = not recipe.phases or any(phase.sequence_length is None for phase in recipe.phases)
        print(table(options, result, sizes, source if is_taken else ""))
    return 0


def _comparable(recipe: Recipe, result: Forecast, cluster: ClusterShape, inputs: dict[str, Input]) -> tuple[Recipe, Forecast]:
    """The recipe to compare world sizes with, and its plan: of a recipe with phases, its longest phase as a run of its own."""
    if not recipe.phases:
        return recipe, result
    days = [phase.days_without_faults for phase in result.phases]
    number = days.index(max(days))
    alone = recipe_in(recipe, phases_of(recipe)[number])
    return alone, forecast(alone, cluster, inputs, result.parameters, result.phases[number].sequence_length)


def row_length(recipe: Recipe) -> tuple[int, str]:
    """Tokens in a row where the recipe does not say it, and where the figure is from: the shards, or the model where they are away."""
    shards = recipe.data.shards
    try:
        index = ShardIndex.load(path := find_index(shards)) if shards else None
    except ShardError:
        index = None
    if index is not None:
        return index.sequence_length, str(path)
    return recipe.model.max_position_embeddings, f"model.max_position_embeddings: no index of shards in {shards or 'data.shards'}"


def _parser() -> OneSentenceParser:
    parser = OneSentenceParser(
        prog="jadeberta plan",
        allow_abbrev=False,
        description="What a recipe will cost on a cluster: work, days, failures to expect, and how often to save.",
        epilog="Keys of the recipe can be given as options too, such as --training.max_steps 1000. Goodput is the expected share of "
        "the wall time that is useful, for failures that strike at random; jadeberta/plan/checkpoint_interval.py derives it.",
    )
    parser.add_argument("--config", type=path_option, required=True, metavar="RECIPE", help="recipe, a YAML file")
    parser.add_argument(
        "--nodes",
        type=_counts,
        default=[1],
        metavar="N[,N..]",
        help="nodes of the job (default 1); several are compared with the first",
    )
    parser.add_argument("--gpus-per-node", type=_count, default=8, help="GPUs of a node (default 8)")
    parser.add_argument("--device", default="A100", help="kind of GPU, for its peak: A100, H100, H200 or V100 (default A100)")
    for name, (read, text) in NUMBERS.items():
        default = f" (assumed: {ASSUMED[name].value:g})" if name in ASSUMED else ""
        parser.add_argument(_option(name), type=read, metavar="X", help=text + default)
    parser.add_argument(
        "--measured", type=path_option, metavar="RUN", help="take stall, write, restart and speed from a run's own ledger"
    )
    parser.add_argument(
        "--preflight",
        type=path_option,
        metavar="FILE",
        help="take latency and bandwidth of the ranks' ring from a preflight.json",
    )
    parser.add_argument("--json", action="store_true", help="the plan as one JSON object")
    return parser


def _count(text: str) -> int:
    # All world sizes up to some times this are tried: of a slip of the keyboard the plan would never end.
    if not text.isdecimal() or len(text) > len(str(MOST_OF_A_KIND)) or not 1 <= int(text) <= MOST_OF_A_KIND:
        raise argparse.ArgumentTypeError(f"'{text[:40]}' is not a number from 1 to {MOST_OF_A_KIND}")
    return int(text)


def _counts(text: str) -> list[int]:
    return [_count(part) for part in text.split(",")]


def _option(name: str) -> str:
    return "--" + name.replace("_", "-")


def table(options: argparse.Namespace, result: Forecast, sizes: list[WorldSize], rows_from: str) -> str:
    """Returns the plan as text.

    Args:
        options: of the command line.
        result: the plan.
        sizes: comparison of world sizes; empty: none.
        rows_from: where the row length is from that the recipe does not say; empty where it does.
    """
    count = options.nodes[0]
    nodes = f"{count} node{'s' * (count > 1)} x {options.gpus_per_node} {options.device}"
    mfu = "" if result.mfu is None else f", MFU {100 * result.mfu:.1f}%"
    speed = f"{result.tokens_per_second:,.0f} tokens/s, {result.tokens_per_second / count / options.gpus_per_node:,.0f} a GPU"
    facts = {
        "parameters": f"{result.parameters:,}",
        "tokens": f"{result.tokens / 1e9:,.4g} billion",
        "rows": f"{result.sequence_length:,} tokens{', where a phase names none' * bool(result.phases)} ({rows_from})",
        "work": f"{result.flops_per_token / 1e9:.3f} GFLOP a token, {result.total_flops:.3g} FLOP",
        "speed": f"{speed}{mfu}",
        "step": f"{result.step_s:.3f} s",
        "memory of a GPU": f"{result.state_bytes / 1e9:.1f} GB of state, {result.activation_bytes / 1e9:.1f} GB for a micro-batch",
        "checkpoint": f"{result.checkpoint_bytes / 1e9:.2f} GB",
        "without faults": f"{result.days_without_faults:.1f} days",
        "failures": f"{result.failures:.1f} expected, one in {result.mtbf_s / 86400:.1f} days",
    }
    if not rows_from:
        del facts["rows"]
    lines = [f"{options.config} on {nodes}", *_indented(format_table(("", ""), facts.items(), left=2))]
    if result.phases:
        lines += ["", *_indented(_phases_table(result))]
    names = {"recipe": "checkpoint.every_steps", "young": "Young 1974", "daly": "Daly 2006", "best": "best"}
    rows = []
    for name, label in names.items():
        plan = result.choices[name]
        rows.append((label, f"{plan.seconds / 60:.1f}", f"{plan.steps:,}", f"{100 * plan.goodput:.3f}%", f"{plan.days:.2f}"))
    lines += ["", *_indented(format_table(("save every", "minutes", "steps", "goodput", "days"), rows, rule=False))]
    if sizes:
        what = "the longest phase alone" if result.phases else "the same batch"
        lines += ["", f"{what} on more nodes, without faults", *sizes_table(sizes)]
    lines += ["", "computed from"]
    for name, used in result.inputs.items():
        text = f"  {_option(name):<28} {used.value:>8,.5g}  {used.kind}" + (f": {used.source}" if used.source else "")
        lines += textwrap.wrap(text, WIDTH, subsequent_indent=" " * 50, replace_whitespace=False)
    return "\n".join(lines)


def _phases_table(result: Forecast) -> str:
    rows = [
        (
            str(number),
            f"{p.steps:,}",
            f"{p.sequence_length:,}",
            str(p.micro_batch_size),
            f"{p.tokens / 1e9:,.4g}",
            f"{p.tokens_per_second:,.0f}",
            f"{p.step_s:.3f}",
            f"{p.days_without_faults:.2f}",
            f"{p.activation_bytes / 1e9:.1f}",
        )
        for number, p in enumerate(result.phases, 1)
    ]
    heads = ("phase", "steps", "row", "micro-batch", "10^9 tokens", "tokens/s", "step, s", "days", "activations, GB")
    return format_table(heads, rows, rule=False)


def _indented(text: str) -> list[str]:
    return [f"  {line}" for line in text.splitlines()]
