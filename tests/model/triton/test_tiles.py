"""The table of tiles: which row a GPU gets, what others get, and how the tuner rewrites it."""

import warnings
from itertools import pairwise

import pytest
import torch

from jadeberta.errors import ConfigError
from jadeberta.model.attention.triton import tiles, tune
from jadeberta.model.attention.triton.tiles import KERNELS, SAFE, FormChoice, Tile, TileEntry

A, B, C = Tile(64, 64, 4, 2), Tile(64, 32, 4, 1), Tile(32, 32, 4, 2)


def test_a_gpu_without_rows_takes_the_safe_tile_and_says_so_once() -> None:
    tiles._warn_untuned.cache_clear()
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        asked = [tiles.tile_for("tables", "forward", torch.bfloat16, 64, (12, 0)) for _ in range(3)]
    assert asked == [SAFE] * 3
    assert (
        len(said) == 1
        and "compute capability 12.0" in str(said[0].message)
        and "jadeberta.model.attention.triton.tune" in str(said[0].message)
    )


def test_what_is_tried_takes_the_tables_place_until_the_end_also_inside_another_trial() -> None:
    def asked() -> Tile:
        return tiles.tile_for("tables", "forward", torch.bfloat16, 64, (9, 0))

    before = asked(), tiles.forms_for(torch.bfloat16, 64, (9, 0)), tiles.scratch_bytes(torch.bfloat16, 64, (9, 0))
    with tiles.override({"tables.forward": A}, ("fused", "tables"), 7):
        with tiles.override({"tables.forward": B}):
            assert asked() == B
        assert asked() == A and tiles.forms_for(torch.bfloat16, 64, (9, 0)) == ("fused", "tables")
        assert tiles.scratch_bytes(torch.bfloat16, 64, (9, 0)) == 7 * 2**20
    assert before == (asked(), tiles.forms_for(torch.bfloat16, 64, (9, 0)), tiles.scratch_bytes(torch.bfloat16, 64, (9, 0)))


def test_both_16_bit_dtypes_share_rows_and_32_bits_have_their_own(tmp_path, monkeypatch) -> None:
    table = tmp_path / "tiles.json"
    entries = [TileEntry("sm_90", "tables", "forward", bits, 64, tile, "counted") for bits, tile in ((16, A), (32, B))]
    tiles.dump([], entries, table)
    monkeypatch.setattr(
        tiles, "_entries", lambda: {(r.chip, r.form, r.kernel, r.bits, r.head_size): r for r in tiles.load(table)[1]}
    )
    found = [tiles.tile_for("tables", "forward", dtype, 64, (9, 0)) for dtype in (torch.bfloat16, torch.float16, torch.float32)]
    assert found == [A, A, B]


def test_the_table_is_read_as_it_was_written_and_writing_it_again_changes_no_byte(tmp_path) -> None:
    table = tmp_path / "tiles.json"
    form_choices, entries = tiles.load()
    assert form_choices and entries
    tiles.dump(form_choices, entries, table)
    assert tiles.load(table) == (form_choices, entries)
    assert table.read_bytes() == tiles.TABLE.read_bytes()


def test_candidates_are_this_chips_first_then_other_chips_then_the_safe_one_each_once() -> None:
    entries = [
        TileEntry("sm_80", "tables", "forward", 16, 64, C, "counted", [A]),
        TileEntry("sm_90", "tables", "forward", 16, 64, A, "counted", [B]),
        TileEntry("sm_90", "tables", "build", 16, 64, Tile(128, 128, 8, 3), "counted"),
        TileEntry("sm_90", "tables", "forward", 32, 64, Tile(16, 16, 4, 1), "counted"),
    ]
    assert tune.candidates(entries, "sm_90", "tables", "forward", 16, 64) == [A, B, C, SAFE]
    assert tune.candidates(entries, "sm_120", "tables", "forward", 16, 128) == [SAFE]


class Machine:
    """A GPU on which a pass takes as long as its tiles say; writes down the order in which they ran."""

    def __init__(self, microseconds: dict[Tile, float]) -> None:
        self.microseconds, self.ran = microseconds, []

    def passes(self):
        return {(form, pass_): lambda form=form, pass_=pass_: self.run(form, pass_) for form, pass_ in KERNELS}

    def run(self, form: str, pass_: str) -> float:
        taken = [tiles.tile_for(form, kernel, torch.bfloat16, 64, None) for kernel in KERNELS[form, pass_]]
        if Tile(128, 128, 8, 3) in taken:
            raise RuntimeError("out of resource: shared memory")
        self.ran.append(taken)
        return sum(self.microseconds[tile] for tile in taken) * (3 if form == "fused" else 1)


def tuned(machine: Machine, entries: list[TileEntry], has_time=lambda: True):
    def timer(run) -> float:
        told = run()
        return sum(told) if isinstance(told, list) else told

    return tune.tune(machine.passes(), entries, ("sm_90", 16, 64), "on a machine", timer, 3, has_time)


def rows_of_all(*rivals: Tile) -> list[TileEntry]:
    return [
        TileEntry("sm_90", form, kernel, 16, 64, A, "counted", list(rivals)) for (form, _), ks in KERNELS.items() for kernel in ks
    ]


def test_the_tuner_takes_the_fastest_tile_of_each_kernel_and_the_faster_form_and_says_where() -> None:
    entries, form_choice = tuned(Machine({A: 5, B: 2, C: 4, SAFE: 9}), rows_of_all(C, B))
    assert {(r.form, r.kernel): (r.tile, r.rivals) for r in entries} == {
        (r.form, r.kernel): (B, [C, A, SAFE]) for r in rows_of_all()
    }
    assert all(r.rests_on.startswith("measured on a machine: ") for r in entries)
    assert (
        form_choice is not None
        and (form_choice.forward, form_choice.backward) == ("tables", "tables")
        and "tables forward 4 us" in form_choice.rests_on
    )


def test_a_tile_that_does_not_run_falls_out_and_the_others_are_timed(capsys) -> None:
    entries, _ = tuned(Machine({A: 5, B: 2, SAFE: 9}), rows_of_all(Tile(128, 128, 8, 3), B))
    assert {r.tile for r in entries} == {B} and all(Tile(128, 128, 8, 3) not in r.rivals for r in entries)
    assert "128x128, 8 warps, 3 stages does not run here: RuntimeError: out of resource" in capsys.readouterr().out


def test_where_no_tile_runs_nothing_is_written_and_the_kernel_is_named() -> None:
    with pytest.raises(ConfigError, match=r"no tile of fused\.forward runs"):
        tuned(Machine({}), rows_of_all())


def test_candidates_take_turns() -> None:
    order: list[Tile] = []
    runs = {tile: lambda tile=tile: order.append(tile) or float(len(order)) for tile in (A, B, C)}
    tune.time_interleaved(runs, lambda run: run(), 4)
    assert order == [A, B, C] * 5


def test_out_of_time_the_rows_that_were_not_reached_stay_and_no_form_is_chosen() -> None:
    left = iter([True, True, False])
    before = rows_of_all(B)
    found, form_choice = tuned(Machine({A: 5, B: 2, SAFE: 9}), before, lambda: next(left))
    assert len(found) == 2 and form_choice is None
    after = tune.replace_entries(before, found)
    assert len(after) == len(before) and [r for r in after if r.rests_on == "counted"] == [
        r for r in before if (r.form, r.kernel) not in {(f.form, f.kernel) for f in found}
    ]


def test_rows_lie_in_order_one_a_line() -> None:
    lines = [line for line in tiles.TABLE.read_text(encoding="utf-8").splitlines() if '"kernel"' in line]
    assert len(lines) == len(tiles.load()[1])
    keys = [(r.chip, r.form, r.kernel, r.bits, r.head_size) for r in tiles.load()[1]]
    assert all(one < other for one, other in pairwise(keys))


def test_a_choice_names_its_scratch() -> None:
    assert all(isinstance(c, FormChoice) and c.scratch_mib > 0 for c in tiles.load()[0])


@pytest.mark.parametrize(("length", "heads"), [(512, 16), (2048, 4), (4096, 2), (8192, 1)])
def test_scratch_of_a_long_row_holds_the_heads_that_keep_an_a100_busy_and_no_more(length, heads, monkeypatch) -> None:
    pytest.importorskip("triton", reason="Triton is not installed")
    from jadeberta.model.attention.triton import arguments, tables

    monkeypatch.setattr(arguments, "capability_of", lambda device: (8, 0))
    monkeypatch.setattr(arguments, "processors_of", lambda device: 108)
    qkv = torch.empty(2, length, 3, 16, 64, dtype=torch.bfloat16, device="meta")
    ids, seed = (torch.empty(shape, dtype=torch.int64, device="meta") for shape in ((2 * length - 1,), ()))
    args = arguments.KernelArguments(qkv, None, None, ids, None, seed, 0.1, 0.07)
    assert (tables.rows_at_once(args), tables.heads_at_once(args)) == (1, heads)
    chunks = list(tables._Chunks(args))
    covered = [(c.rows.start, head) for c in chunks for head in range(c.heads.start, c.heads.stop)]
    assert covered == [(row, head) for row in range(2) for head in range(16)]
    assert tables._Chunks(args).scratch.nbytes == heads * tables.bytes_per_head(args)
