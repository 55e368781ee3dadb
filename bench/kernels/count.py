"""Counts what the attention kernels cost on a GPU that is not there: `python bench/kernels/count.py [--kernels fused.forward ...]`.

Compiles every candidate tile of every kernel, reads registers, spills, shared memory and the instructions of the main loop, and ranks the
candidates by the cycles that one multiprocessor needs at the least for 64 x 64 scores. Counted, not measured:
`jadeberta.model.attention.triton.tune`
measures. `--table` puts the best into the table of tiles, with the next ones to be timed; rows that were measured stay.
"""

import argparse
import json
import sys
from collections import Counter
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from itertools import product
from pathlib import Path
from typing import Any

import torch
import triton

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from bench.kernels.candidates import candidates
from bench.kernels.limits import CHIPS, Chip, limit
from bench.kernels.offline import Compiled, disassemble
from bench.kernels.problems import compiled
from bench.kernels.sass import by_kind, loops, read
from bench.results_file import write_results
from jadeberta.model.attention.triton import tiles
from jadeberta.model.attention.triton.tiles import KERNELS, FormChoice, Tile, TileEntry
from jadeberta.utils.paths import path_option

SCORES = 64 * 64
DTYPES = {16: torch.bfloat16, 32: torch.float32}
TIMES = {"build": 2, "grad_side": 2, "grad_table": 2, "grad_positions": 2}
"""Kernels that run for c2p and for p2c, or for q and for k."""
KEPT = 6
"""Candidates of a kernel in the results."""
RIVALS = 3
"""Candidates beside the best in the table."""


@dataclass(frozen=True)
class Count:
    """One candidate as compiled."""

    tile: Tile
    registers: int
    spills: int
    """Loads and stores of what the registers do not hold, in the whole code."""
    shared_bytes: int
    resident: int
    """Programs on a multiprocessor."""
    cycles: float
    """Of one multiprocessor for 64 x 64 scores, at the least."""
    bound: str
    matmul_share: float
    """Of the peak of the products that the kernel makes."""
    instructions: dict[str, int]
    """Of one warp for one tile, by kind."""
    pipes: dict[str, float]
    """Cycles for 64 x 64 scores, pipe by pipe."""

    @property
    def rank(self) -> tuple[int, float]:
        """Spilling ones last, the worst of all."""
        return self.spills, self.cycles


def count(found: Compiled, tile: Tile, chip: Chip) -> Count:
    """Reads the code of one kernel; a kernel of several main loops is taken to go through all equally often."""
    text = disassemble(found.cubin)
    bodies = loops(text)
    spills = by_kind(read(text)[0])["spill"]
    limits = [limit(body, found.warps, found.registers, found.shared_bytes, found.programs, chip) for body in bodies]
    a_tile = SCORES / (tile.block_m * tile.block_n)
    cycles = sum(one.cycles for one in limits)
    pipes: Counter[str] = Counter()
    for one in limits:
        pipes.update({pipe: busy * a_tile for pipe, busy in one.pipes.items()})
    return Count(
        tile, found.registers, spills, found.shared_bytes, limits[0].resident, cycles * a_tile,
        max(limits, key=lambda one: one.cycles).bound, sum(one.matmul_floor for one in limits) / cycles,
        dict(by_kind([i for body in bodies for i in body])), dict(pipes),
    )  # fmt: skip


def rank(
    form: str, kernel: str, chip_name: str, bits: int, head_size: int, quick: bool = False
) -> tuple[list[Count], Counter[str]]:
    """All candidates of a kernel that fit, the best first, and why others fell out."""
    chip, fallen, counted = CHIPS[chip_name], Counter[str](), []
    for tile in candidates(form, kernel, bits, quick):
        try:
            found = compiled(form, kernel, chip.capability, DTYPES[bits], head_size, tile)
        except Exception as e:  # whatever Triton raises for a tile that it cannot compile
            fallen[type(e).__name__] += 1
            continue
        counts = [count(one, tile, chip) for one in found]
        if any(one.shared_bytes > chip.shared_bytes for one in counts):
            fallen["too much shared memory"] += 1
            continue
        counted.append(max(counts, key=lambda one: one.rank))
    fallen["spills"] = sum(one.spills > 0 for one in counted)
    return sorted(counted, key=lambda one: one.rank), fallen


def row_of(form: str, kernel: str, chip_name: str, bits: int, head_size: int, ranked: list[Count]) -> TileEntry:
    """The line of the table for a ranked list."""
    best = ranked[0]
    spills = f", {best.spills} spills" if best.spills else ""
    told = (
        f"counted {datetime.now(UTC).date().isoformat()}, triton {triton.__version__}: {best.registers} registers{spills}, "
        f"{best.shared_bytes / 1024:.0f} KiB, {best.cycles:.0f} cycles"
    )
    rivals = [one.tile for one in ranked[1 : 1 + RIVALS] if not one.spills]
    return TileEntry(chip_name, form, kernel, bits, head_size, best.tile, told, rivals)


def main() -> None:
    names = [f"{form}.{kernel}" for (form, _), kernels in KERNELS.items() for kernel in kernels]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--chips", nargs="+", choices=CHIPS, default=list(CHIPS))
    parser.add_argument("--kernels", nargs="+", choices=names, default=names)
    parser.add_argument("--bits", nargs="+", type=int, choices=DTYPES, default=[16], help="of the dtype")
    parser.add_argument("--head-sizes", nargs="+", type=int, choices=(32, 64, 128), default=[64])
    parser.add_argument("--quick", action="store_true", help="leave out candidates that rarely win")
    parser.add_argument("--table", action="store_true", help="write the best into the table of tiles")
    parser.add_argument("--output", type=path_option, help="JSON file; what it holds of other kernels stays")
    options = parser.parse_args()
    for chip_name, name, bits, head_size in product(options.chips, options.kernels, options.bits, options.head_sizes):
        form, kernel = name.split(".")
        ranked, fallen = rank(form, kernel, chip_name, bits, head_size, options.quick)
        key = key_of(chip_name, name, bits, head_size)
        show(key, ranked, fallen)
        if options.table and ranked:
            enter(row_of(form, kernel, chip_name, bits, head_size, ranked))
        if options.output is not None:
            kernels = write(options.output, {key: {"fallen": dict(fallen), "best": brief(ranked)}})
            if options.table and (form_choice := choice_of(chip_name, bits, head_size, kernels)) is not None:
                choose(form_choice)


def key_of(chip_name: str, name: str, bits: int, head_size: int) -> str:
    """Of a kernel in the results."""
    return f"{chip_name} {name} {bits} bits, head size {head_size}"


def choice_of(chip_name: str, bits: int, head_size: int, kernels: dict[str, Any]) -> FormChoice | None:
    """The forms with the fewest cycles; None until all kernels are counted."""
    cycles: dict[tuple[str, str], float] = {}
    for (form, pass_), names in KERNELS.items():
        names += ("build",) if (form, pass_) == ("tables", "backward") else ()
        best = [kernels.get(key_of(chip_name, f"{form}.{name}", bits, head_size), {}).get("best") for name in names]
        if not all(best):
            return None
        cycles[form, pass_] = sum(TIMES.get(name, 1) * one["cycles"] for name, one in zip(names, best, strict=True))
    forward, backward = (min(("tables", "fused"), key=lambda form: cycles[form, p]) for p in ("forward", "backward"))
    figures = ", ".join(f"{form} {pass_} {n:,.0f}" for (form, pass_), n in cycles.items())
    told = f"counted {datetime.now(UTC).date().isoformat()}, triton {triton.__version__}: cycles for 64 x 64 scores: {figures}"
    return FormChoice(chip_name, bits, head_size, forward, backward, tiles.SCRATCH_MIB[chip_name], told)


def show(key: str, ranked: list[Count], fallen: Counter[str]) -> None:
    """The best few of a kernel, for people."""
    print(f"{key}: {len(ranked)} candidates; {', '.join(f'{n} {why}' for why, n in fallen.items())}", flush=True)
    for one in ranked[:KEPT]:
        tile = f"{one.tile.block_m}x{one.tile.block_n}, {one.tile.warps} warps, {one.tile.stages} stages"
        figures = f"{one.registers:3} registers, {one.spills} spills, {one.shared_bytes / 1024:4.0f} KiB, {one.resident} resident"
        kinds = " ".join(f"{kind} {n}" for kind, n in sorted(one.instructions.items(), key=lambda item: -item[1])[:7])
        print(
            f"  {tile:<30} {one.cycles:6.0f} cycles ({one.bound}), {one.matmul_share:4.0%} of matmul; {figures}; {kinds}",
            flush=True,
        )


def enter(row: TileEntry) -> None:
    """Puts a row into the table, unless a measured one stands there."""
    form_choices, entries = tiles.load()
    same = [
        r
        for r in entries
        if (r.chip, r.form, r.kernel, r.bits, r.head_size) == (row.chip, row.form, row.kernel, row.bits, row.head_size)
    ]
    if any(r.rests_on.startswith("measured") for r in same):
        return
    tiles.dump(form_choices, [r for r in entries if r not in same] + [row])


def choose(form_choice: FormChoice) -> None:
    """Puts a choice into the table, unless a measured one stands there."""
    form_choices, entries = tiles.load()
    same = [
        c for c in form_choices if (c.chip, c.bits, c.head_size) == (form_choice.chip, form_choice.bits, form_choice.head_size)
    ]
    if not any(c.rests_on.startswith("measured") for c in same):
        tiles.dump([c for c in form_choices if c not in same] + [form_choice], entries)


def brief(ranked: list[Count]) -> dict[str, Any] | None:
    """The best of a ranked list as the results keep it."""
    if not ranked:
        return None
    best = asdict(ranked[0])
    tile = ranked[0].tile
    return {"tile": f"{tile.block_m}x{tile.block_n}, {tile.warps} warps, {tile.stages} stages"} | {
        key: best[key] for key in ("registers", "spills", "cycles", "bound")
    }


def write(path: Path, results: dict[str, Any]) -> dict[str, Any]:
    """Puts kernels into the file; results of other kernels that it holds stay. Returns all of them."""
    old = json.loads(path.read_text(encoding="utf-8"))["kernels"] if path.exists() else {}
    kernels = dict(sorted({**old, **results}.items()))
    document = {
        "what": "counted from compiled code, not measured",
        "scores": SCORES,
        "triton": triton.__version__,
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "kernels": kernels,
    }
    write_results(path, document)
    return kernels


if __name__ == "__main__":
    main()
