"""The table of tile sizes: the best tile for each kernel, dtype, head size and GPU generation, and the evidence for it.

The entries are in tiles.json, which `python -m jadeberta.model.attention.triton.tune` rewrites on a GPU. A tile changes the speed of a
kernel and the rounding of its results, never the dropout mask.
"""

import json
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

TABLE = Path(__file__).with_name("tiles.json")


@dataclass(frozen=True, order=True)
class Tile:
    """The tile size and launch options of one kernel."""

    block_m: int
    """Queries of a tile; for kernels over distances, rows of a program."""
    block_n: int
    """Keys of a tile; for kernels over distances, distances of a step."""
    warps: int
    """Warps of a program."""
    stages: int
    """Stages of the software pipeline of the main loop."""


@dataclass(frozen=True)
class TileEntry:
    """One entry of the table."""

    chip: str
    """sm_80 or sm_90."""
    form: str
    """fused or tables."""
    kernel: str
    bits: int
    """Bits of the dtype: 16 or 32."""
    head_size: int
    tile: Tile
    rests_on: str
    """"measured" with machine and date, or "counted" with registers and bytes as compiled: no GPU has seen it."""
    rivals: list[Tile] = field(default_factory=list)
    """Other candidates that are worth timing, the most promising first."""


@dataclass(frozen=True)
class FormChoice:
    """The form of each pass. Both forms save the same tensors for backward, so the passes may use different forms."""

    chip: str
    bits: int
    head_size: int
    forward: str
    backward: str
    scratch_mib: int
    """Scratch of form "tables": more than the L2 cache holds goes through memory, less leaves multiprocessors idle."""
    rests_on: str


KERNELS = {
    ("fused", "forward"): ("forward",),
    ("fused", "backward"): ("grad_queries", "grad_keys", "grad_positions"),
    ("tables", "forward"): ("build", "forward"),
    ("tables", "backward"): ("scores_backward", "grad_side", "grad_table"),
}
"""The kernels that each pass of each form adds; the backward pass of form "tables" also runs "build"."""

SAFE = Tile(32, 32, 4, 1)
"""Fits on every GPU."""
SAFE_FORM = ("tables", "tables")
SCRATCH_MIB = {"sm_80": 18, "sm_90": 36}
"""Scratch where nothing was measured: rows of the large model, 16.8 MB each, that surely stay in the L2 cache until they are read."""

_override_tiles: dict[str, Tile] = {}  # of the process, not of a thread: autograd runs backward in a thread of its own
_override_forms: list[tuple[str, str]] = []
_override_scratch: list[int] = []


def tile_for(form: str, kernel: str, dtype: torch.dtype, head_size: int, capability: tuple[int, int] | None) -> Tile:
    """The tile of a kernel; the safe tile if the table has no entry.

    Args:
        form: fused or tables.
        kernel: one of KERNELS.
        dtype: of q, k and v.
        head_size: D.
        capability: CUDA compute capability; None is the interpreter.
    """
    if (replaced := _override_tiles.get(f"{form}.{kernel}")) is not None:
        return replaced
    if capability is None:
        return SAFE
    found = _entries().get((chip(capability), form, kernel, 8 * dtype.itemsize, head_size))
    if found is None:
        _warn_untuned(capability)
        return SAFE
    return found.tile


def forms_for(dtype: torch.dtype, head_size: int, capability: tuple[int, int] | None) -> tuple[str, str]:
    """The forms of the forward and the backward pass."""
    if _override_forms:
        return _override_forms[-1]
    if capability is None:
        return SAFE_FORM
    found = _form_choices().get((chip(capability), 8 * dtype.itemsize, head_size))
    return SAFE_FORM if found is None else (found.forward, found.backward)


def scratch_bytes(dtype: torch.dtype, head_size: int, capability: tuple[int, int] | None) -> int:
    """Bytes of scratch of form "tables", for one chunk of the batch at a time."""
    if _override_scratch:
        return 2**20 * _override_scratch[-1]
    name = "" if capability is None else chip(capability)
    found = _form_choices().get((name, 8 * dtype.itemsize, head_size))
    return 2**20 * (SCRATCH_MIB.get(name, min(SCRATCH_MIB.values())) if found is None else found.scratch_mib)


@contextmanager
def override(tiles: dict[str, Tile], forms: tuple[str, str] | None = None, scratch_mib: int | None = None) -> Iterator[None]:
    """Replaces tiles (by "form.kernel"), forms and scratch of the table in this process, for tuning and tests."""
    before = dict(_override_tiles)
    _override_tiles.update(tiles)
    _override_forms.extend([forms] if forms else [])
    _override_scratch.extend([scratch_mib] if scratch_mib else [])
    try:
        yield
    finally:
        _override_tiles.clear()
        _override_tiles.update(before)
        if forms:
            _override_forms.pop()
        if scratch_mib:
            _override_scratch.pop()


def load(path: Path = TABLE) -> tuple[list[FormChoice], list[TileEntry]]:
    """The table as it is on disk: form choices, and tile entries."""
    document = json.loads(path.read_text(encoding="utf-8"))
    form_choices = [FormChoice(**line) for line in document["forms"]]
    entries = [
        TileEntry(**{**line, "tile": Tile(*line["tile"]), "rivals": [Tile(*r) for r in line.get("rivals", [])]})
        for line in document["tiles"]
    ]
    return form_choices, entries


def dump(form_choices: list[FormChoice], entries: list[TileEntry], path: Path = TABLE) -> None:
    """Writes the table, one line per entry, in an order that keeps the diff to the previous table small."""
    lines: dict[str, list[dict[str, Any]]] = {"forms": [], "tiles": []}
    for form_choice in sorted(form_choices, key=lambda c: (c.chip, c.bits, c.head_size)):
        lines["forms"].append(asdict(form_choice))
    for line in sorted(entries, key=lambda r: (r.chip, r.form, r.kernel, r.bits, r.head_size)):
        lines["tiles"].append(
            {**asdict(line), "tile": list(asdict(line.tile).values()), "rivals": [list(asdict(r).values()) for r in line.rivals]}
        )
    sections = [
        f' "{name}": [\n' + ",\n".join(f"  {json.dumps(line)}" for line in section) + "\n ]" for name, section in lines.items()
    ]
    path.write_text("{\n" + ",\n".join(sections) + "\n}\n", encoding="utf-8")
    _entries.cache_clear()
    _form_choices.cache_clear()


@lru_cache(maxsize=1)
def _entries() -> dict[tuple[str, str, str, int, int], TileEntry]:
    return {(r.chip, r.form, r.kernel, r.bits, r.head_size): r for r in load()[1]}


@lru_cache(maxsize=1)
def _form_choices() -> dict[tuple[str, int, int], FormChoice]:
    return {(c.chip, c.bits, c.head_size): c for c in load()[0]}


def chip(capability: tuple[int, int]) -> str:
    """The name of a GPU generation in the table, such as sm_90."""
    return f"sm_{capability[0]}{capability[1]}"


@lru_cache(maxsize=8)
def _warn_untuned(capability: tuple[int, int]) -> None:
    warnings.warn(
        f"attention: fused has no tuned tiles for a GPU of compute capability {capability[0]}.{capability[1]} and uses safe, slow ones. "
        "Run 'python -m jadeberta.model.attention.triton.tune' on that GPU to find better ones.",
        stacklevel=3,
    )
