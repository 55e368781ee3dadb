"""Times the kernels' tiles on this machine's GPU and writes the table: `python -m jadeberta.model.attention.triton.tune [--head-size 64]`.

One kernel after another: every round times each candidate once while the other kernels of the pass stay unchanged, and the tile with the
lowest median is taken. The candidates are the tiles and rivals of the table, for all GPUs. The size of the scratch and the faster form of
each pass follow. The table is written after each kernel.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import TypeVar

import torch

from jadeberta.errors import ConfigError
from jadeberta.model.attention.relative_positions import distance_buckets
from jadeberta.model.attention.triton import tiles
from jadeberta.model.attention.triton.arguments import KernelArguments
from jadeberta.model.attention.triton.tiles import KERNELS, SAFE, FormChoice, Tile, TileEntry
from jadeberta.utils.paths import path_option

LENGTH, SPAN, WIDTH, DROPOUT = 512, 256, 1024, 0.1
"""Sequence length, span, hidden size and dropout of the large model; the number of heads follows from the head size."""
AHEAD = 40_000_000
"""Clock cycles that the device waits while the host queues the calls that are timed."""
SCRATCH_MIB = (128, 18, 36, 72, 512)
Candidate = TypeVar("Candidate")
Timer = Callable[[Callable[[], object]], float]
"""Runs a function and returns its time in microseconds."""


def candidates(entries: Sequence[TileEntry], chip: str, form: str, kernel: str, bits: int, head_size: int) -> list[Tile]:
    """The tiles to time, without repeats: this chip's tile and its rivals first, then those of other chips, then the safe tile.

    Args:
        entries: of the table.
        chip: such as sm_90.
        form: fused or tables.
        kernel: one of KERNELS.
        bits: of the dtype, 16 or 32.
        head_size: D.
    """
    same = [r for r in entries if (r.form, r.kernel, r.bits, r.head_size) == (form, kernel, bits, head_size)]
    same.sort(key=lambda r: r.chip != chip)
    return list(dict.fromkeys([t for r in same for t in (r.tile, *r.rivals)] + [SAFE]))


def time_interleaved(runs: dict[Candidate, Callable[[], object]], timer: Timer, rounds: int) -> dict[Candidate, float]:
    """Median microseconds of each candidate; a candidate whose warm-up call fails is left out."""
    times_of: dict[Candidate, list[float]] = {}
    for candidate, run in runs.items():
        try:
            timer(run)
        except Exception as e:  # too much shared memory, or another reason for which Triton refuses a tile
            print(f"    {describe(candidate)} does not run here: {type(e).__name__}: {str(e).partition(chr(10))[0]}", flush=True)
        else:
            times_of[candidate] = []
    for _ in range(rounds):
        for candidate, times in times_of.items():
            times.append(timer(runs[candidate]))
    return {candidate: statistics.median(times) for candidate, times in times_of.items()}


def describe(candidate: object) -> str:
    """The candidate in words: a tile, or a size of scratch in MiB."""
    if not isinstance(candidate, Tile):
        return f"{candidate} MiB"
    return f"{candidate.block_m}x{candidate.block_n}, {candidate.warps} warps, {candidate.stages} stages"


def tune(
    passes: dict[tuple[str, str], Callable[[], object]],
    entries: Sequence[TileEntry],
    key: tuple[str, int, int],
    where: str,
    timer: Timer,
    rounds: int,
    has_time: Callable[[], bool],
    keep: Callable[[list[TileEntry]], None] = lambda found: None,
) -> tuple[list[TileEntry], FormChoice | None]:
    """The table entries and the choice of forms that follow from the timings.

    Args:
        passes: functions that run each pass of each form, by (form, pass).
        entries: of the current table.
        key: chip, bits and head size.
        where: date, GPU and shape, for the evidence of the measured entries.
        timer: times one run.
        rounds: timed runs of each candidate.
        has_time: whether to begin another kernel; kernels that were not reached keep their entries, and no form is chosen.
        keep: told of all entries after each kernel, so that a tuner that is ended leaves what it found.

    Raises:
        ConfigError: no tile of a kernel runs on this GPU.
    """
    found: list[TileEntry] = []
    best: dict[str, Tile] = {}
    medians: dict[tuple[str, str], float] = {}
    for (form, pass_), run in passes.items():
        for kernel in KERNELS[form, pass_]:
            if not has_time():
                print("  out of time: the rows of the remaining kernels stay as they are", flush=True)
                return found, None
            name = f"{form}.{kernel}"
            runs = {t: _with(run, {**best, name: t}) for t in candidates(entries, key[0], form, kernel, *key[1:])}
            times = time_interleaved(runs, timer, rounds)
            if not times:
                raise ConfigError(
                    f"no tile of {name} runs on this GPU; nothing was written. Is its driver older than Triton wants?"
                )
            ranked = sorted(times, key=lambda tile: times[tile])
            best[name] = ranked[0]
            medians[form, pass_] = times[ranked[0]]
            rests_on = f"measured {where}: {pass_} {times[ranked[0]]:.0f} us, best of {len(times)}"
            found.append(TileEntry(key[0], form, kernel, *key[1:], ranked[0], rests_on, ranked[1:4]))
            keep(found)
            print(f"  {name}: {', '.join(f'{describe(t)} {times[t]:.0f} us' for t in ranked)}", flush=True)

    def both(scratch_mib: int) -> Callable[[], object]:
        return lambda: [_with(passes["tables", pass_], best, scratch_mib)() for pass_ in ("forward", "backward")]

    scratch = time_interleaved({mib: both(mib) for mib in SCRATCH_MIB}, timer, rounds)
    print(f"  scratch: {', '.join(f'{describe(mib)} {us:.0f} us' for mib, us in scratch.items())}", flush=True)
    forward, backward = (
        min((form for form, p in medians if p == pass_), key=lambda form: medians[form, pass_])
        for pass_ in ("forward", "backward")
    )
    figures = ", ".join(f"{form} {pass_} {us:.0f} us" for (form, pass_), us in medians.items())
    mib = min(scratch, key=lambda mib: scratch[mib])
    return found, FormChoice(*key, forward, backward, mib, f"measured {where}: {figures}")


def replace_entries(entries: Sequence[TileEntry], found: Sequence[TileEntry]) -> list[TileEntry]:
    """The entries of the table with the newly found ones in place of theirs."""
    new = {(r.chip, r.form, r.kernel, r.bits, r.head_size) for r in found}
    return [r for r in entries if (r.chip, r.form, r.kernel, r.bits, r.head_size) not in new] + list(found)


def _with(run: Callable[[], object], best: dict[str, Tile], scratch_mib: int | None = None) -> Callable[[], object]:
    def with_tiles() -> object:
        with tiles.override(best, scratch_mib=scratch_mib):
            return run()

    return with_tiles


def gpu_timer(run: Callable[[], object], calls: int = 5) -> float:
    """Microseconds of one call: several calls are queued before the device begins, as in training."""
    first, last = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    torch.cuda.synchronize()
    torch.cuda._sleep(AHEAD)
    first.record()
    for _ in range(calls):
        run()
    last.record()
    torch.cuda.synchronize()
    return first.elapsed_time(last) * 1e3 / calls


def problem(batch: int, head_size: int, dtype: torch.dtype, device: torch.device, dropout: float = DROPOUT) -> KernelArguments:
    """Arguments for the attention of the large model with random tensors, or tensors without content on the device meta.

    Args:
        batch: B.
        head_size: D.
        dtype: of the tensors.
        device: of the tensors.
        dropout: share of the weights that is zeroed.
    """
    heads = WIDTH // head_size

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, dtype=dtype, device=device)

    qkv, keys, queries = (
        random(batch, LENGTH, 3, heads, head_size),
        random(2 * SPAN, heads, head_size),
        random(2 * SPAN, heads, head_size),
    )
    bucket_ids = distance_buckets(LENGTH, SPAN, SPAN, LENGTH, str(device))
    seed = torch.zeros((), dtype=torch.int64, device=device)
    return KernelArguments(qkv, keys, queries, bucket_ids, None, seed, dropout, (3 * head_size) ** -0.5)


def passes_for(args: KernelArguments) -> dict[tuple[str, str], Callable[[], object]]:
    """Functions that run each pass of each form on the arguments, by (form, pass)."""
    from jadeberta.model.attention.triton import fused, tables

    found: dict[tuple[str, str], Callable[[], object]] = {}
    batch, length, heads, size = args.shape
    for form, module in (("tables", tables), ("fused", fused)):
        out = args.qkv.new_zeros(batch, length, heads, size)
        lse = args.qkv.new_zeros(batch, heads, length, dtype=torch.float32)
        found[form, "forward"] = lambda module=module: module.forward(args)  # type: ignore[misc]
        found[form, "backward"] = lambda module=module, out=out, lse=lse: module.backward(args, out, out, lse)  # type: ignore[misc]
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dtype", choices=["bfloat16", "float16", "float32"], default="bfloat16")
    parser.add_argument("--head-size", type=int, choices=[32, 64, 128], default=64)
    parser.add_argument("--batch", type=int, default=16, help="rows")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=170, help="no kernel is begun after that")
    parser.add_argument(
        "--table", type=path_option, default=tiles.TABLE, help="the JSON file that is rewritten (the package's own)"
    )
    options = parser.parse_args()
    if not torch.cuda.is_available():
        print("tune: torch finds no GPU here; the table of tiles stays as it is", file=sys.stderr)
        return 2
    began, device = time.monotonic(), torch.device("cuda")
    dtype: torch.dtype = getattr(torch, options.dtype)
    args = problem(options.batch, options.head_size, dtype, device)
    chip = tiles.chip(torch.cuda.get_device_capability())
    where = f"{datetime.now(UTC).date().isoformat()} on {torch.cuda.get_device_name()}, {options.batch} rows of {LENGTH}, {options.dtype}"
    print(f"{where}, heads of {options.head_size}", flush=True)
    form_choices, entries = tiles.load(options.table)
    key = (chip, 8 * dtype.itemsize, options.head_size)

    def has_time() -> bool:
        return time.monotonic() - began < options.seconds

    def keep(found: list[TileEntry]) -> None:
        tiles.dump(form_choices, replace_entries(entries, found), options.table)

    found, form_choice = tune(passes_for(args), entries, key, where, gpu_timer, options.rounds, has_time, keep)
    if form_choice is not None:
        form_choices = [c for c in form_choices if (c.chip, c.bits, c.head_size) != key] + [form_choice]
        print(f"  {form_choice.rests_on}", flush=True)
    tiles.dump(form_choices, replace_entries(entries, found), options.table)
    print(f"{options.table}: {len(found)} rows", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
