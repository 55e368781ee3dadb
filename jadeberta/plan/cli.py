"""`jadeberta plan`: what a recipe will cost on a cluster, and how often to save; every assumption is printed with its source."""

import argparse
import textwrap
from collections.abc import Callable
from dataclasses import asdict, replace
from typing import Any

import orjson

from jadeberta.config import Recipe, load_recipe
from jadeberta.config.deepspeed_file import read_deepspeed_file
from jadeberta.config.phases import phases_of, recipe_in, with_lengths
from jadeberta.errors import ConfigError, ShardError
from jadeberta.model.load import count_parameters_of
from jadeberta.plan.forecast import DEFAULTS, ClusterShape, Forecast, Input, forecast, measured_inputs
from jadeberta.plan.gpu_memory import activation_parts
from jadeberta.plan.plan_figures import CHOICES, PHASE_HEADERS, Figure, explain, figures_of, phase_rows
from jadeberta.plan.plan_page import Page, write_page
from jadeberta.plan.race_share import GROUP, race_figures, read_race_shares
from jadeberta.plan.run_costs import RunCosts, cost_inputs, costs_of
from jadeberta.plan.step_time import Network
from jadeberta.plan.training_flops import flops_and_tokens
from jadeberta.plan.world_sizes import DEFAULTS as NETWORK_DEFAULTS
from jadeberta.plan.world_sizes import WorldSize, compare, network_inputs, networks, read_preflight, sizes_table
from jadeberta.plan.zero_advice import USABLE, ZeroAdvice, advise
from jadeberta.shards.index import ShardIndex, find_index
from jadeberta.status.attempts import read_run
from jadeberta.utils.command_line import OneSentenceParser, not_negative, positive
from jadeberta.utils.hardware import find_peaks
from jadeberta.utils.paths import path_option
from jadeberta.utils.text_table import format_table

WIDTH = 130
"""Columns to which the sources are wrapped."""


def _pue(text: str) -> float:
    value = positive(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"'{text}' is below 1: a centre draws at least what its machines do")
    return value


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
    "gpu_memory_gb": (positive, "memory of a GPU, GB (assumed: by --device)"),
    "gpu_watts": (positive, "power of a GPU with its share of the host, W (assumed: by --device)"),
    "pue": (_pue, "power of the whole centre as a multiple of the machines' (assumed: 1.2)"),
    "text_gb": (positive, "text to preprocess, GB (assumed: by the shards, else 142.2)"),
}
"""Options with a number: parser and help text."""
OF_COSTS = ("gpu_memory_gb", "gpu_watts", "pue", "text_gb")
"""Options that the forecast of the days does not read."""
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
    # `forecast` prints every input it gets, so those of the network and of the costs go to their own functions alone.
    of_network = {name: inputs.pop(name) for name in (*NETWORK_DEFAULTS, "nvlink_gb_per_s") if name in inputs}
    of_costs = {name: inputs.pop(name) for name in OF_COSTS if name in inputs}
    index, length, source = rows_of(recipe)
    result = forecast(recipe, cluster, inputs, count_parameters_of(recipe), length)
    preflight = {} if options.preflight is None else read_preflight(options.preflight)
    sizes: list[WorldSize] = []
    if len(options.nodes) > 1 or options.preflight is not None:
        used = network_inputs(options.device, of_network, preflight, str(options.preflight))
        sizes = compare(*_comparable(recipe, result, cluster, inputs), options.nodes, cluster, used, preflight)
        result = replace(result, inputs=result.inputs | used)
    elif options.link_gbps is not None:
        raise ConfigError("--link-gbps says how fast nodes talk to each other; name several sizes, such as --nodes 1,2,4.")
    used = cost_inputs(options.device, of_costs, index, source)
    zero = _advice(recipe, result, cluster, used, _rings(options, of_network, preflight))
    costs = costs_of(recipe, cluster, inputs, result, zero, used, index)
    state = sum(zero.own.memory[name] for name in ("weights", "gradients", "optimizer"))
    result = replace(result, state_bytes=state, inputs=result.inputs | used)
    figures = figures_of(recipe, cluster, result, costs, index) + _of_race(options, recipe, costs, length)
    if options.html is not None:
        write_page(options.html, Page(str(options.config), cluster, result, costs, figures, sizes))
    if options.json:
        shown = asdict(result) | asdict(costs) | {"inputs": asdict(result)["inputs"], "sizes": [asdict(s) for s in sizes]}
        shown["figures"] = {figure.key: asdict(figure) for figure in figures}
        print(orjson.dumps(shown, option=orjson.OPT_INDENT_2).decode())
    else:
        is_taken = not recipe.phases or any(phase.sequence_length is None for phase in recipe.phases)
        print(table(options, result, sizes, source if is_taken else "", costs_in_words(figures)))
        if options.explain:
            print("\n".join(explain(figures, WIDTH)))
        if options.html is not None:
            print(f"\n{options.html}")
    return 0


def _of_race(options: argparse.Namespace, recipe: Recipe, costs: RunCosts, length: int) -> list[Figure]:
    """What a race says of the recipe; nothing without --race."""
    if (options.race is None) != (options.contestant is None):
        raise ConfigError("--race and --contestant go together: the report of a race, and whose share of the FLOPs to take.")
    if options.race is None:
        return []
    shares = read_race_shares(options.race, options.contestant)
    target = load_recipe(shares.target_recipe)
    target_flops, _ = flops_and_tokens(target, target.model.max_position_embeddings)
    flops, _ = flops_and_tokens(recipe, length)
    return race_figures(shares, target_flops, flops, costs.days_range)


def _rings(options: argparse.Namespace, of_network: dict[str, Input], preflight: dict[str, Any]) -> dict[bool, Network] | None:
    """The links, as far as they are known: a plan on another kind of GPU goes without."""
    if find_peaks(options.device) is None and "nvlink_gb_per_s" not in of_network:
        return None
    used = network_inputs(options.device, of_network, preflight, str(options.preflight))
    return networks(used, options.gpus_per_node, preflight)


def _advice(
    recipe: Recipe, result: Forecast, cluster: ClusterShape, used: dict[str, Input], rings: dict[bool, Network] | None
) -> ZeroAdvice:
    """What suits the phase whose micro-batch takes most memory."""
    phases = with_lengths(phases_of(recipe), result.sequence_length)
    taken = [sum(activation_parts(recipe, phase, phase.micro_batch_size).values()) for phase in phases]
    limit = used.get("gpu_memory_gb")
    memory = None if limit is None else USABLE * limit.value * 1e9
    return advise(
        recipe,
        phases[taken.index(max(taken))],
        result,
        cluster,
        memory,
        rings,
        read_deepspeed_file(recipe.deepspeed)[1]["zero_optimization"],
    )


def _comparable(recipe: Recipe, result: Forecast, cluster: ClusterShape, inputs: dict[str, Input]) -> tuple[Recipe, Forecast]:
    """The recipe to compare world sizes with, and its plan: of a recipe with phases, its longest phase as a run of its own."""
    if not recipe.phases:
        return recipe, result
    days = [phase.days_without_faults for phase in result.phases]
    number = days.index(max(days))
    alone = recipe_in(recipe, phases_of(recipe)[number])
    return alone, forecast(alone, cluster, inputs, result.parameters, result.phases[number].sequence_length)


def rows_of(recipe: Recipe) -> tuple[ShardIndex | None, int, str]:
    """The index of the shards, None where they are away; tokens in a row where the recipe does not say it; and where that is from."""
    shards = recipe.data.shards
    try:
        index = ShardIndex.load(path := find_index(shards)) if shards else None
    except ShardError:
        index = None
    if index is not None:
        return index, index.sequence_length, str(path)
    name = shards or "data.shards"
    return None, recipe.model.max_position_embeddings, f"model.max_position_embeddings: no index of shards in {name}"


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
    parser.add_argument(
        "--race",
        type=path_option,
        metavar="FILE",
        help="also predict the days to the target's accuracy by the report.json of a race of small models",
    )
    parser.add_argument("--contestant", metavar="NAME", help="with --race: the contestant whose settings the recipe has")
    parser.add_argument("--json", action="store_true", help="the plan as one JSON object")
    parser.add_argument("--explain", action="store_true", help="also print the formula and the source of every figure")
    parser.add_argument("--html", type=path_option, metavar="FILE", help="also write the plan as an HTML page that loads nothing")
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


def costs_in_words(figures: list[Figure]) -> dict[str, str]:
    """Returns the figures of the short table that are not those of the forecast."""
    names = {
        "largest_micro_batch": "largest micro-batch", "zero_stage": "advice", "days": "with failures", "gpu_hours": "GPU-hours",
        "energy_kwh": "energy", "disk_checkpoints": "disk, checkpoints", "disk_shards": "disk, shards", "core_hours": "preprocessing",
    }  # fmt: skip
    found = {figure.key: figure.text for figure in figures}
    # The reason is a long sentence, which --explain and the page have.
    found["zero_stage"] = found["zero_stage"].split(": ", 1)[0]
    by_race = {figure.label: figure.text for figure in figures if figure.group == GROUP}
    return {label: found[key] for key, label in names.items()} | by_race


def table(options: argparse.Namespace, result: Forecast, sizes: list[WorldSize], rows_from: str, costs: dict[str, str]) -> str:
    """Returns the plan as text.

    Args:
        options: of the command line.
        result: the plan.
        sizes: comparison of world sizes; empty: none.
        rows_from: where the row length is from that the recipe does not say; empty where it does.
        costs: further rows, by label.
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
        **costs,
    }
    if not rows_from:
        del facts["rows"]
    lines = [f"{options.config} on {nodes}", *_indented(format_table(("", ""), facts.items(), left=2))]
    if result.phases:
        lines += ["", *_indented(format_table(PHASE_HEADERS, phase_rows(result), rule=False))]
    rows = []
    for name, label in CHOICES.items():
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


def _indented(text: str) -> list[str]:
    return [f"  {line}" for line in text.splitlines()]
