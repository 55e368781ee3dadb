"""The table of tile sizes: for each kernel, dtype, head size and GPU generation what is best, and what that rests on.

The rows lie in tiles.json, which `python -m jadeberta.model.attention.triton.tune` rewrites on a GPU. A tile changes how fast a kernel
is, never what
it drops, and its results by rounding only.
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
    """How one kernel cuts its work."""

    block_m: int
    """Queries; of kernels over distances, the rows that they own."""
    block_n: int
    """Keys; of kernels over distances, those."""
    warps: int
    stages: int


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    chip: str
    """sm_80 or sm_90."""
    form: str
    """fused or tables."""
    kernel: str
    bits: int
    """Of the dtype: 16 or 32."""
    head_size: int
    tile: Tile
    rests_on: str
    """"measured" with machine and date, or "counted" with registers and bytes as compiled: no GPU has seen it."""
    rivals: list[Tile] = field(default_factory=list)
    """What else is worth timing, the likeliest first."""


@dataclass(frozen=True)
class Choice:
    """Which form each pass takes; they keep the same things and may differ."""

    chip: str
    bits: int
    head_size: int
    forward: str
    backward: str
    scratch_mib: int
    """What form "tables" may write beside its results: more than the L2 cache holds goes through memory, less leaves processors idle."""
    rests_on: str


KERNELS = {
    ("fused", "forward"): ("forward",),
    ("fused", "backward"): ("grad_queries", "grad_keys", "grad_positions"),
    ("tables", "forward"): ("build", "forward"),
    ("tables", "backward"): ("scores_backward", "grad_side", "grad_table"),
}
"""What each pass of each form adds; backward of form "tables" builds again."""

SAFE = Tile(32, 32, 4, 1)
"""Fits everywhere."""
SAFE_FORM = ("tables", "tables")
SCRATCH_MIB = {"sm_80": 18, "sm_90": 36}
"""Where nothing was measured: as many rows of the large model, 16.8 MB each, as surely stay in the L2 cache until they are read."""

_trial: dict[str, Tile] = {}  # of the process: backward runs in a thread of its own
_trial_forms: list[tuple[str, str]] = []
_trial_scratch: list[int] = []


def row(form: str, kernel: str, dtype: torch.dtype, head_size: int, capability: tuple[int, int] | None) -> Tile:
    """The tile of a kernel on a GPU of that compute capability; the safe one where the table has no row; None is the interpreter."""
    if (tried := _trial.get(f"{form}.{kernel}")) is not None:
        return tried
    if capability is None:
        return SAFE
    found = _rows().get((chip(capability), form, kernel, 8 * dtype.itemsize, head_size))
    if found is None:
        _say_unknown(capability)
        return SAFE
    return found.tile


def forms(dtype: torch.dtype, head_size: int, capability: tuple[int, int] | None) -> tuple[str, str]:
    """Which form the forward and the backward pass take."""
    if _trial_forms:
        return _trial_forms[-1]
    if capability is None:
        return SAFE_FORM
    found = _choices().get((chip(capability), 8 * dtype.itemsize, head_size))
    return SAFE_FORM if found is None else (found.forward, found.backward)


def scratch_bytes(dtype: torch.dtype, head_size: int, capability: tuple[int, int] | None) -> int:
    """How much form "tables" may write beside its results, for a part of the batch at a time."""
    if _trial_scratch:
        return 2**20 * _trial_scratch[-1]
    name = "" if capability is None else chip(capability)
    found = _choices().get((name, 8 * dtype.itemsize, head_size))
    return 2**20 * (SCRATCH_MIB.get(name, min(SCRATCH_MIB.values())) if found is None else found.scratch_mib)


@contextmanager
def using(tiles: dict[str, Tile], forms: tuple[str, str] | None = None, scratch_mib: int | None = None) -> Iterator[None]:
    """Puts tiles, by "form.kernel", forms and scratch in the places of the table's; for the whole process, for tuning and tests."""
    before = dict(_trial)
    _trial.update(tiles)
    _trial_forms.extend([forms] if forms else [])
    _trial_scratch.extend([scratch_mib] if scratch_mib else [])
    try:
        yield
    finally:
        _trial.clear()
        _trial.update(before)
        if forms:
            _trial_forms.pop()
        if scratch_mib:
            _trial_scratch.pop()


def load(path: Path = TABLE) -> tuple[list[Choice], list[Row]]:
    """The table as it lies on disk."""
    document = json.loads(path.read_text(encoding="utf-8"))
    choices = [Choice(**line) for line in document["forms"]]
    rows = [
        Row(**{**line, "tile": Tile(*line["tile"]), "rivals": [Tile(*r) for r in line.get("rivals", [])]})
        for line in document["tiles"]
    ]
    return choices, rows


def dump(choices: list[Choice], rows: list[Row], path: Path = TABLE) -> None:
    """Writes the table, one line for each row, in an order that keeps the difference to the last one small."""
    lines: dict[str, list[dict[str, Any]]] = {"forms": [], "tiles": []}
    for choice in sorted(choices, key=lambda c: (c.chip, c.bits, c.head_size)):
        lines["forms"].append(asdict(choice))
    for line in sorted(rows, key=lambda r: (r.chip, r.form, r.kernel, r.bits, r.head_size)):
        lines["tiles"].append(
            {**asdict(line), "tile": list(asdict(line.tile).values()), "rivals": [list(asdict(r).values()) for r in line.rivals]}
        )
    sections = [
        f' "{name}": [\n' + ",\n".join(f"  {json.dumps(line)}" for line in section) + "\n ]" for name, section in lines.items()
    ]
    path.write_text("{\n" + ",\n".join(sections) + "\n}\n", encoding="utf-8")
    _rows.cache_clear()
    _choices.cache_clear()


@lru_cache(maxsize=1)
def _rows() -> dict[tuple[str, str, str, int, int], Row]:
    return {(r.chip, r.form, r.kernel, r.bits, r.head_size): r for r in load()[1]}


@lru_cache(maxsize=1)
def _choices() -> dict[tuple[str, int, int], Choice]:
    return {(c.chip, c.bits, c.head_size): c for c in load()[0]}


def chip(capability: tuple[int, int]) -> str:
    """As rows name it."""
    return f"sm_{capability[0]}{capability[1]}"


@lru_cache(maxsize=8)
def _say_unknown(capability: tuple[int, int]) -> None:
    warnings.warn(
        f"attention: fused has no tuned tiles for a GPU of compute capability {capability[0]}.{capability[1]} and takes safe, slow ones; "
        "'python -m jadeberta.model.attention.triton.tune' finds better ones there.",
        stacklevel=3,
    )
