"""Times the kernels' tiles on this machine's GPU and writes the table: `python -m jadeberta.model.attention.triton.tune [--head-size 64]`.

Kernel by kernel: each candidate takes its turn in every round, all other kernels of the pass as they are, and the lowest median stays. The
candidates are the table's tiles and their rivals, of all GPUs. Then the size of the scratch, and the faster form of each pass.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar

import torch

from jadeberta.errors import ConfigError
from jadeberta.model.attention.relative_positions import distance_slots
from jadeberta.model.attention.triton import tiles
from jadeberta.model.attention.triton.arguments import Call
from jadeberta.model.attention.triton.tiles import KERNELS, SAFE, Choice, Row, Tile

LENGTH, SPAN, WIDTH, DROPOUT = 512, 256, 1024, 0.1
"""Of the large model; the number of heads follows from the head size."""
AHEAD = 40_000_000
"""Clock cycles that the device waits while the host queues what is timed."""
SCRATCH_MIB = (128, 18, 36, 72, 512)
Candidate = TypeVar("Candidate")
Timer = Callable[[Callable[[], object]], float]
"""Runs something and gives its microseconds."""


def candidates(rows: Sequence[Row], chip: str, form: str, kernel: str, bits: int, head_size: int) -> list[Tile]:
    """What is worth timing, without repeats: this chip's tile and its rivals first, then those of other chips, then the safe tile."""
    same = [r for r in rows if (r.form, r.kernel, r.bits, r.head_size) == (form, kernel, bits, head_size)]
    same.sort(key=lambda r: r.chip != chip)
    return list(dict.fromkeys([t for r in same for t in (r.tile, *r.rivals)] + [SAFE]))


def interleaved(runs: dict[Candidate, Callable[[], object]], timer: Timer, rounds: int) -> dict[Candidate, float]:
    """Median microseconds of each; one whose first turn, which does not count, fails is left out."""
    alive: dict[Candidate, list[float]] = {}
    for candidate, run in runs.items():
        try:
            timer(run)
        except Exception as e:  # too much shared memory, or whatever else Triton has against a tile
            print(f"    {told(candidate)} does not run here: {type(e).__name__}: {str(e).partition(chr(10))[0]}", flush=True)
        else:
            alive[candidate] = []
    for _ in range(rounds):
        for candidate, times in alive.items():
            times.append(timer(runs[candidate]))
    return {candidate: statistics.median(times) for candidate, times in alive.items()}


def told(candidate: object) -> str:
    """For people."""
    if not isinstance(candidate, Tile):
        return f"{candidate} MiB"
    return f"{candidate.block_m}x{candidate.block_n}, {candidate.warps} warps, {candidate.stages} stages"


def tune(
    passes: dict[tuple[str, str], Callable[[], object]],
    rows: Sequence[Row],
    key: tuple[str, int, int],
    where: str,
    timer: Timer,
    rounds: int,
    has_time: Callable[[], bool],
) -> tuple[list[Row], Choice | None]:
    """The rows and the choice of forms that the timings give.

    Args:
        passes: what runs each pass of each form, by (form, pass).
        rows: of the table as it is.
        key: chip, bits and head size.
        where: what the measured rows rest on, beside the figure.
        timer: of one run.
        rounds: turns of each candidate.
        has_time: whether to begin with another kernel; what was not reached keeps its rows, and no form is chosen.
    """
    found: list[Row] = []
    best: dict[str, Tile] = {}
    medians: dict[tuple[str, str], float] = {}
    for (form, pass_), run in passes.items():
        for kernel in KERNELS[form, pass_]:
            if not has_time():
                print("  out of time: the rows of the remaining kernels stay as they are", flush=True)
                return found, None
            name = f"{form}.{kernel}"
            runs = {t: _with(run, {**best, name: t}) for t in candidates(rows, key[0], form, kernel, *key[1:])}
            times = interleaved(runs, timer, rounds)
            if not times:
                raise ConfigError(
                    f"no tile of {name} runs on this GPU; nothing was written. Is its driver older than Triton wants?"
                )
            ranked = sorted(times, key=lambda tile: times[tile])
            best[name] = ranked[0]
            medians[form, pass_] = times[ranked[0]]
            rests_on = f"measured {where}: {pass_} {times[ranked[0]]:.0f} us, best of {len(times)}"
            found.append(Row(key[0], form, kernel, *key[1:], ranked[0], rests_on, ranked[1:4]))
            print(f"  {name}: {', '.join(f'{told(t)} {times[t]:.0f} us' for t in ranked)}", flush=True)

    def both(scratch_mib: int) -> Callable[[], object]:
        return lambda: [_with(passes["tables", pass_], best, scratch_mib)() for pass_ in ("forward", "backward")]

    scratch = interleaved({mib: both(mib) for mib in SCRATCH_MIB}, timer, rounds)
    print(f"  scratch: {', '.join(f'{told(mib)} {us:.0f} us' for mib, us in scratch.items())}", flush=True)
    forward, backward = (
        min((form for form, p in medians if p == pass_), key=lambda form: medians[form, pass_])
        for pass_ in ("forward", "backward")
    )
    figures = ", ".join(f"{form} {pass_} {us:.0f} us" for (form, pass_), us in medians.items())
    mib = min(scratch, key=lambda mib: scratch[mib])
    return found, Choice(*key, forward, backward, mib, f"measured {where}: {figures}")


def merged(rows: Sequence[Row], found: Sequence[Row]) -> list[Row]:
    """The table with rows replaced."""
    new = {(r.chip, r.form, r.kernel, r.bits, r.head_size) for r in found}
    return [r for r in rows if (r.chip, r.form, r.kernel, r.bits, r.head_size) not in new] + list(found)


def _with(run: Callable[[], object], best: dict[str, Tile], scratch_mib: int | None = None) -> Callable[[], object]:
    def with_tiles() -> object:
        with tiles.using(best, scratch_mib=scratch_mib):
            return run()

    return with_tiles


def gpu_timer(run: Callable[[], object], calls: int = 5) -> float:
    """Microseconds of one call, several in a row, all queued before the device begins, as in training."""
    first, last = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    torch.cuda.synchronize()
    torch.cuda._sleep(AHEAD)
    first.record()
    for _ in range(calls):
        run()
    last.record()
    torch.cuda.synchronize()
    return first.elapsed_time(last) * 1e3 / calls


def problem(batch: int, head_size: int, dtype: torch.dtype, device: torch.device, dropout: float = DROPOUT) -> Call:
    """The attention of the large model on random tensors; without content on the device meta."""
    heads = WIDTH // head_size

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, dtype=dtype, device=device)

    qkv, keys, queries = (
        random(batch, LENGTH, 3, heads, head_size),
        random(2 * SPAN, heads, head_size),
        random(2 * SPAN, heads, head_size),
    )
    slots = distance_slots(LENGTH, SPAN, SPAN, LENGTH, str(device))
    seed = torch.zeros((), dtype=torch.int64, device=device)
    return Call(qkv, keys, queries, slots, None, seed, dropout, (3 * head_size) ** -0.5)


def passes_of(call: Call) -> dict[tuple[str, str], Callable[[], object]]:
    """Every pass of every form on one problem."""
    from jadeberta.model.attention.triton import fused as whole
    from jadeberta.model.attention.triton import tables

    found: dict[tuple[str, str], Callable[[], object]] = {}
    batch, length, heads, size = call.shape
    for form, module in (("tables", tables), ("fused", whole)):
        out = call.qkv.new_zeros(batch, length, heads, size)
        lse = call.qkv.new_zeros(batch, heads, length, dtype=torch.float32)
        found[form, "forward"] = lambda module=module: module.forward(call)  # type: ignore[misc]
        found[form, "backward"] = lambda module=module, out=out, lse=lse: module.backward(call, out, out, lse)  # type: ignore[misc]
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dtype", choices=["bfloat16", "float16", "float32"], default="bfloat16")
    parser.add_argument("--head-size", type=int, choices=[32, 64, 128], default=64)
    parser.add_argument("--batch", type=int, default=16, help="rows")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=170, help="no kernel is begun after that")
    parser.add_argument("--table", type=Path, default=tiles.TABLE, help="the JSON file that is rewritten (the package's own)")
    options = parser.parse_args()
    if not torch.cuda.is_available():
        print("tune: torch finds no GPU here; the table of tiles stays as it is", file=sys.stderr)
        return 2
    began, device = time.monotonic(), torch.device("cuda")
    dtype: torch.dtype = getattr(torch, options.dtype)
    call = problem(options.batch, options.head_size, dtype, device)
    chip = tiles.chip(torch.cuda.get_device_capability())
    where = f"{datetime.now(UTC).date().isoformat()} on {torch.cuda.get_device_name()}, {options.batch} rows of {LENGTH}, {options.dtype}"
    print(f"{where}, heads of {options.head_size}", flush=True)
    choices, rows = tiles.load(options.table)
    key = (chip, 8 * dtype.itemsize, options.head_size)
    found, choice = tune(
        passes_of(call), rows, key, where, gpu_timer, options.rounds, lambda: time.monotonic() - began < options.seconds
    )
    if choice is not None:
        choices = [c for c in choices if (c.chip, c.bits, c.head_size) != key] + [choice]
        print(f"  {choice.rests_on}", flush=True)
    tiles.dump(choices, merged(rows, found), options.table)
    print(f"{options.table}: {len(found)} rows", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
