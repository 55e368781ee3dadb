"""A recipe at several world sizes: step time, efficiency and days that `jadeberta plan` predicts.

Pure functions, except `zero_of` and `read_preflight`. The speed of one GPU is an input; this module adds communication. Every constant
that was not measured carries its source.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from jadeberta.config import Recipe
from jadeberta.config.deepspeed_file import overlaps, read_deepspeed_file
from jadeberta.errors import ConfigError, InputError
from jadeberta.plan.forecast import ClusterShape, Forecast, Input
from jadeberta.plan.step_time import NO_NETWORK, Network, RankWork, Ring, network_of, predict, traffic, update_seconds
from jadeberta.utils.hardware import PEAKS, find_peaks
from jadeberta.utils.text_table import format_table

HOP = "NCCL's own table (src/graph/tuning.cc: ring, Simple protocol)"
DEFAULTS = {
    "link_gbps": Input(200.0, "assumed", "one HDR InfiniBand adapter a node; nodes with eight have 1600"),
    "link_latency_us": Input(9.6, "assumed", f"a hop over the network in {HOP}"),
    "nvlink_latency_us": Input(3.4, "assumed", f"a hop over NVLink in {HOP}"),
    "spread": Input(0.0, "assumed", "nobody measured how much the ranks' steps differ; --measured takes it from a run"),
}
"""Values that are assumed where nothing is given or measured, by option."""


@dataclass(frozen=True)
class WorldSize:
    """The recipe on a number of nodes; times are seconds of a step."""

    nodes: int
    ranks: int
    micro_batch: int
    """The recipe's micro-batch, or the largest below it that divides the batch; 0 where none does, and then the other figures are 0."""
    accumulation: int
    step_s: float
    compute_s: float
    communication_s: float
    """Communication that is not hidden, and the wait for the slowest rank."""
    tokens_per_second: float
    efficiency: float
    """Tokens/s of a GPU as a share of those at the smallest world size."""
    days: float
    """Days of the run without failures."""


def network_inputs(device: str, given: dict[str, Input], preflight: dict[str, Any], name: str) -> dict[str, Input]:
    """Returns the figures that a comparison of world sizes is computed from: given, measured by preflight, else assumed.

    Args:
        device: kind of GPU.
        given: figures by option.
        preflight: content of preflight.json; empty where there is none.
        name: name of that file, for the source.

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
    """Returns the rings within one node (False) and over several (True): measured by preflight, else computed from the inputs.

    Over several nodes a ring is as fast as its slowest hop, which is the one between two nodes.

    Args:
        inputs: as `network_inputs` returns them.
        gpus_per_node: GPUs of a node.
        preflight: content of preflight.json; empty where there is none.
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
    recipe: Recipe, plan: Forecast, nodes: list[int], cluster: ClusterShape, inputs: dict[str, Input], preflight: dict[str, Any]
) -> list[WorldSize]:
    """Predicts the recipe's step at several world sizes with the same global batch (strong scaling).

    Args:
        recipe: checked recipe.
        plan: forecast of the recipe on `cluster`; its tokens/s per GPU leave out communication between nodes.
        nodes: numbers of nodes to compare.
        cluster: GPUs of a node and their kind.
        inputs: as `network_inputs` returns them.
        preflight: content of preflight.json; empty where there is none.
    """
    training, length = recipe.training, plan.sequence_length
    batch, sizes, gpus = training.global_batch_size, sorted(set(nodes)), cluster.gpus_per_node
    stage, overlap = zero_of(recipe)
    rings = networks(inputs, gpus, preflight)
    base = cluster.nodes * gpus
    update = update_seconds(plan.parameters, cluster.device)
    # The plan's speed already contains the update, divided over its ranks.
    row_s = (plan.step_s - update / base) / (batch / base)
    result: list[WorldSize] = []
    for size in sizes:
        ranks = size * gpus
        micro = next((m for m in range(training.micro_batch_size, 0, -1) if training.batch_sizes.common % (m * ranks) == 0), 0)
        if micro == 0:
            result.append(WorldSize(size, ranks, 0, 0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0))
            continue
        accumulation = batch // (micro * ranks)
        work = RankWork(row_s * micro, accumulation, update, spread=inputs["spread"].value, measured_ranks=base)
        sent = traffic(plan.parameters, stage, training.precision, accumulation)
        time = predict(work, sent, ranks, NO_NETWORK if ranks == 1 else rings[size > 1], overlap and stage >= 2)
        speed = batch * length / time.step_s
        first = next((s for s in result if s.micro_batch), None)
        efficiency = 1.0 if first is None else speed / ranks / (first.tokens_per_second / first.ranks)
        waits = time.communication_s + time.stragglers_s
        days = time.step_s * training.batch_sizes.before(training.max_steps) / batch / 86400
        result.append(WorldSize(size, ranks, micro, accumulation, time.step_s, time.compute_s, waits, speed, efficiency, days))
    return result


def zero_of(recipe: Recipe) -> tuple[int, bool]:
    """Returns the ZeRO stage of the recipe's DeepSpeed file, and whether its communication overlaps on GPUs.

    Raises:
        ConfigError: the file is missing or cannot be used.
    """
    zero = read_deepspeed_file(recipe.deepspeed)[1]["zero_optimization"]
    return zero["stage"], overlaps(recipe, zero)


def read_preflight(path: Path) -> dict[str, Any]:
    """Reads a preflight.json.

    Raises:
        InputError: it cannot be read, or has no latency and bandwidth.
    """
    try:
        found = orjson.loads(path.read_bytes())
    except (OSError, ValueError) as e:
        raise InputError(f"{path}: cannot be read as JSON ({e}). Name the --json file of 'jadeberta preflight'.") from e
    if not isinstance(found, dict) or network_of(found.get("constants") or {}) is None:
        raise InputError(f"{path}: no latency and bandwidth under 'constants'; preflight measures them on two ranks or more.")
    return found


def _has_several_hosts(preflight: dict[str, Any]) -> bool:
    return len(preflight.get("hosts") or []) > 1


def sizes_table(sizes: list[WorldSize]) -> list[str]:
    """Returns the comparison as lines of a table."""
    headers = ("nodes", "GPUs", "micro-batch", "accumulation", "step s", "compute", "exposed", "tokens/s", "efficiency", "days")
    rows = [
        (s.nodes, s.ranks, s.micro_batch, s.accumulation, f"{s.step_s:.3f}", f"{s.compute_s:.3f}", f"{s.communication_s:.4f}",
         f"{s.tokens_per_second:,.0f}", f"{s.efficiency:.1%}", f"{s.days:.2f}")
        if s.micro_batch
        else (s.nodes, s.ranks, *["-"] * 8)
        for s in sizes
    ]  # fmt: skip
    lines = [f"  {line}" for line in format_table(headers, rows, left=0, rule=False).splitlines()]
    if not all(s.micro_batch for s in sizes):
        lines.append("  -: the global batch does not divide over so many GPUs")
    return lines
