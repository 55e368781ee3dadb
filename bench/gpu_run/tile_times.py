"""Part: the tuner of form `tables`, with its rows in the results after each kernel; the package's table stays as it is."""

from dataclasses import asdict, replace

import torch

from bench.gpu_run.one_part import PartRows
from bench.gpu_run.stand_in import Machine
from jadeberta.model.attention.triton import tiles, tune
from jadeberta.model.attention.triton.tiles import TileEntry

BATCH, ROUNDS = 16, 5


def measure(machine: Machine, rows: PartRows, way: str) -> None:
    """The lines for tiles.json, bf16, heads of 64, as `tune` finds them."""
    choices, entries = tiles.load()
    if machine.rehearse:
        passes = {("tables", pass_): lambda: torch.ones(8).sum() for pass_ in ("forward", "backward")}
        chip, where = "sm_90", "in a rehearsal"
    else:
        passes = tune.passes_for(tune.problem(BATCH, 64, torch.bfloat16, machine.device))  # type: ignore[assignment]
        passes = {key: run for key, run in passes.items() if key[0] == "tables"}
        chip, where = (
            tiles.chip(torch.cuda.get_device_capability()),
            f"on {torch.cuda.get_device_name()}, {BATCH} rows of 512, bfloat16",
        )

    def timer(run: object) -> float:
        assert callable(run)
        with machine.alone():
            return machine.timed(run, ahead=True).device * 1e6

    def keep(found: list[TileEntry]) -> None:
        rows.put("tiles", [asdict(entry) for entry in found])

    _, choice = tune.tune(passes, entries, (chip, 16, 64), where, timer, ROUNDS, lambda: machine.left() > 8, keep)  # type: ignore[arg-type]
    if choice is not None:
        now = [c for c in choices if (c.chip, c.bits, c.head_size) == (chip, 16, 64)]
        # Only the scratch was timed: which form is faster needs the kernels of both.
        rows.put("scratch", asdict(replace(now[0], scratch_mib=choice.scratch_mib, rests_on=choice.rests_on) if now else choice))
