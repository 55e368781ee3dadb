"""A recipe at several world sizes: what `jadeberta plan` predicts of step, efficiency and days.

Pure functions but for the two that read a file. The speed of one GPU is an input; this adds what the ranks send each other. Every
constant that nobody measured carries its source.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from jadeberta.config import Recipe, resolve_file
from jadeberta.errors import ConfigError, InputError
from jadeberta.plan.forecast import Cluster, Forecast, Input
from jadeberta.plan.step_time import NO_NETWORK, Network, Ring, Work, network_of, predict, traffic, update_seconds
from jadeberta.utils.hardware import PEAKS, find_peaks

HOP = "NCCL's own table (src/graph/tuning.cc: ring, Simple protocol)"
DEFAULTS = {
    "link_gbps": Input(200.0, "assumed", "one HDR InfiniBand adapter a node; nodes with eight have 1600"),
    "link_latency_us": Input(9.6, "assumed", f"a hop over the network in {HOP}"),
    "nvlink_latency_us": Input(3.4, "assumed", f"a hop over NVLink in {HOP}"),
    "spread": Input(0.0, "assumed", "nobody measured how much the ranks' steps differ; --measured takes it from a run"),
}
"""What is assumed where nothing is given or measured."""


@dataclass(frozen=True)
class Size:
    """The recipe on some nodes; seconds of a step."""

    nodes: int
    ranks: int
    micro_batch: int
    """The recipe's, or the largest below it that divides; 0 where none does, and then the rest is 0 too."""
    accumulation: int
    step_s: float
    compute_s: float
    communication_s: float
    """What is not hidden, with the wait for the slowest rank."""
    tokens_per_second: float
    efficiency: float
    """Tokens/s of a GPU as a share of those at the smallest size."""
    days: float
    """Without faults."""


def network_inputs(device: str, given: dict[str, Input], preflight: dict[str, Any], name: str) -> dict[str, Input]:
    """What a comparison of sizes rests on: what was given, measured by preflight, else assumed.

    Args:
        device: kind of GPU.
        given: by option.
        preflight: as in preflight.json; empty where there is none.
        name: of that file.

    Raises:
        ConfigError: the device's links are not known and not given.
    """
    used = dict(DEFAULTS)
    peaks = find_peaks(device)
    if peaks is not None:
        source = "80% of the data sheet's rate in one direction; of an A100 what NCCL reckons with (src/graph/tuning.cc)"
        used["nvlink_gb_per_s"] = Input(peaks.ring_bytes_per_s / 1e9, "assumed", source)
    used |= given
    if "nvlink_gb_per_s" not in used:
        known = ", ".join(PEAKS)
        raise ConfigError(f"--device {device}: the links between its GPUs are not known ({known} are); give --nvlink-gb-per-s.")
    if (measured := network_of(preflight.get("constants") or {})) is not None:
        where = "between nodes" if _has_several_hosts(preflight) else "within a node"
        ring = measured.all_reduce
        source = f"GB/s, and {ring.latency_s * 1e6:.1f} us a hop, of the all-reduce {where} in {name}; stands for the links above"
        used["preflight"] = Input(ring.bandwidth_bytes_per_s / 1e9, "measured", source)
    return used


def networks(inputs: dict[str, Input], gpus_per_node: int, preflight: dict[str, Any]) -> dict[bool, Network]:
    """The rings within one node (False) and over several (True): preflight's own where it measured such, else from the inputs.

    Over several nodes a ring is as fast as its slowest hop, which is the one between two nodes.
    """
    nvlink = Ring(inputs["nvlink_latency_us"].value * 1e-6, inputs["nvlink_gb_per_s"].value * 1e9)
    # Of each node's hops only the last leaves it.
    hops = (gpus_per_node - 1) * inputs["nvlink_latency_us"].value + inputs["link_latency_us"].value
    rate = inputs["link_gbps"].value * 1e9 / 8
    if gpus_per_node > 1:
        rate = min(rate, nvlink.bandwidth_bytes_per_s)
    link = Ring(hops / gpus_per_node * 1e-6, rate)
    result = {False: Network(nvlink, nvlink), True: Network(link, link)}
    measured = network_of(preflight.get("constants") or {})
    if measured is not None:
        result[_has_several_hosts(preflight)] = measured
    return result


def compare(
    recipe: Recipe, plan: Forecast, nodes: list[int], cluster: Cluster, inputs: dict[str, Input], preflight: dict[str, Any]
) -> list[Size]:
    """The recipe's step at several sizes, strong scaling: the global batch stays.

    Args:
        recipe: checked.
        plan: of the recipe on `cluster`, whose tokens/s of a GPU hold without what goes between nodes.
        nodes: the sizes.
        cluster: GPUs of a node and their kind.
        inputs: as `network_inputs` gives them.
        preflight: as in preflight.json; empty where there is none.
    """
    training, length = recipe.training, recipe.model.max_position_embeddings
    batch, sizes, gpus = training.global_batch_size, sorted(set(nodes)), cluster.gpus_per_node
    stage, overlap = zero_of(recipe)
    rings = networks(inputs, gpus, preflight)
    base = cluster.nodes * gpus
    update = update_seconds(plan.parameters, cluster.device)
    # The plan's speed holds the update too, cut over the ranks that it is made for.
    row_s = (plan.step_s - update / base) / (batch / base)
    result: list[Size] = []
    for size in sizes:
        ranks = size * gpus
        micro = next((m for m in range(training.micro_batch_size, 0, -1) if training.batch_sizes.common % (m * ranks) == 0), 0)
        if micro == 0:
            result.append(Size(size, ranks, 0, 0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0))
            continue
        accumulation = batch // (micro * ranks)
        work = Work(row_s * micro, accumulation, update, spread=inputs["spread"].value, measured_ranks=base)
        sent = traffic(plan.parameters, stage, training.precision, accumulation)
        time = predict(work, sent, ranks, NO_NETWORK if ranks == 1 else rings[size > 1], overlap and stage >= 2)
        speed = batch * length / time.step_s
        first = next((s for s in result if s.micro_batch), None)
        efficiency = 1.0 if first is None else speed / ranks / (first.tokens_per_second / first.ranks)
        waits = time.communication_s + time.stragglers_s
        days = time.step_s * training.batch_sizes.before(training.max_steps) / batch / 86400
        result.append(Size(size, ranks, micro, accumulation, time.step_s, time.compute_s, waits, speed, efficiency, days))
    return result


def zero_of(recipe: Recipe) -> tuple[int, bool]:
    """Stage of ZeRO in the recipe's DeepSpeed file, and whether that overlaps communication. Raises ConfigError."""
    path = resolve_file(recipe.deepspeed)
    try:
        zero = json.loads(path.read_text(encoding="utf-8")).get("zero_optimization", {})
    except json.JSONDecodeError as e:
        raise ConfigError(f"{path}, line {e.lineno}: not JSON ({e.msg}).") from e
    return int(zero.get("stage", 0)), bool(zero.get("overlap_comm", False))


def read_preflight(path: Path) -> dict[str, Any]:
    """What `jadeberta preflight` wrote. Raises InputError."""
    try:
        found = orjson.loads(path.read_bytes())
    except (OSError, ValueError) as e:
        raise InputError(f"{path}: cannot be read as JSON ({e}). Name the --json file of 'jadeberta preflight'.") from e
    if not isinstance(found, dict) or network_of(found.get("constants") or {}) is None:
        raise InputError(f"{path}: no latency and bandwidth under 'constants'; preflight measures them on two ranks or more.")
    return found


def _has_several_hosts(preflight: dict[str, Any]) -> bool:
    return len(preflight.get("hosts") or []) > 1


def sizes_table(sizes: list[Size]) -> list[str]:
    """Lines for people."""
    lines = [
        f"{'nodes':>7} {'GPUs':>6} {'micro-batch':>12} {'accumulation':>13} {'step s':>9} {'compute':>9} {'exposed':>9} "
        f"{'tokens/s':>12} {'efficiency':>11} {'days':>9}"
    ]
    for s in sizes:
        head = f"{s.nodes:>7} {s.ranks:>6} "
        if not s.micro_batch:
            lines.append(f"{head}the global batch does not divide over so many GPUs")
            continue
        lines.append(
            f"{head}{s.micro_batch:>12} {s.accumulation:>13} {s.step_s:>9.3f} {s.compute_s:>9.3f} {s.communication_s:>9.4f} "
            f"{s.tokens_per_second:>12,.0f} {s.efficiency:>11.1%} {s.days:>9.2f}"
        )
    return lines
