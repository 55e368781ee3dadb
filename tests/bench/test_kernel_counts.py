"""The counting of compiled kernels, and the arithmetic of what is measured on a GPU: plain numbers in, plain numbers out."""

import importlib
import sys
from itertools import pairwise
from types import SimpleNamespace

import pytest
import torch
from transformers.models.deberta_v2.modeling_deberta_v2 import DisentangledSelfAttention

from bench.attention import row_of, table
from bench.kernels.check_kernels import Case, call_of, errors
from bench.kernels.formula import formula
from bench.kernels.implementations import theirs
from bench.kernels.limits import A100, H100, limit, resident
from bench.kernels.matrix_work import made_units, needed_flops, share
from bench.kernels.sass import Instruction, by_kind, loops, matmul_work, read
from jadeberta.model.attention.dispatch import attend
from jadeberta.model.attention.triton import tiles
from jadeberta.model.attention.triton.tiles import Tile

CODE = """
.text.kernel:
        /*0000*/                   LDC R1, c[0x0][0x28] ;
        /*0010*/                   LDG.E.128 R4, [R2.64] ;
.L_x_1:
        /*0020*/                   LDS.128 R8, [R3] ;
        /*0030*/              @!P0 BRA `(.L_x_2) ;
        /*0040*/                   IADD3 R5, R5, 0x1, RZ ;
        /*0050*/                   NOP ;
.L_x_2:
        /*0060*/                   HMMA.16816.F32.BF16 R12, R8, R4, R12 ;
        /*0070*/                   IMAD.MOV.U32 R6, RZ, RZ, R7 ;
        /*0080*/                   MUFU.EX2 R6, R6 ;
        /*0090*/              @P1  BRA `(.L_x_1) ;
        /*00a0*/                   STL [R1], R6 ;
.L_x_3:
        /*00b0*/                   FADD R6, R6, R7 ;
        /*00c0*/              @P2  BRA `(.L_x_3) ;
        /*00d0*/                   EXIT ;
"""


def test_the_main_loop_is_the_one_with_matrix_products_and_branches_within_it_are_its_own() -> None:
    (body,) = loops(CODE)
    assert [i.name for i in body] == ["LDS.128", "BRA", "IADD3", "HMMA.16816.F32.BF16", "IMAD.MOV.U32", "MUFU.EX2", "BRA"]
    assert by_kind(body) == {"shared": 1, "integer": 1, "matmul": 1, "move": 1, "special": 1, "other": 2}


def test_spills_are_counted_in_the_whole_code_and_nops_nowhere() -> None:
    instructions, labels = read(CODE)
    assert by_kind(instructions)["spill"] == 1 and len(instructions) == 13
    assert labels == {".L_x_1": 2, ".L_x_2": 5, ".L_x_3": 10}


def test_a_kernel_without_matrix_products_is_taken_whole() -> None:
    code = CODE.replace("HMMA.16816.F32.BF16", "FFMA")
    assert loops(code) == [read(code)[0]]


def test_matrix_instructions_count_the_multiply_adds_of_their_shape_four_warps_sharing_a_wide_one() -> None:
    assert matmul_work(Instruction("HMMA.16816.F32.BF16", "")) == 16 * 8 * 16
    assert matmul_work(Instruction("HGMMA.64x128x16.F32.BF16", "")) * 4 == 64 * 128 * 16
    with pytest.raises(ValueError, match="unknown matrix instruction"):
        matmul_work(Instruction("OMMA.1", ""))


def test_a_loop_is_bound_by_its_fullest_pipe_or_by_latency_where_programs_are_few() -> None:
    exponentials = [Instruction("MUFU.EX2", "")] * 100
    crowded = limit(exponentials, 4, 32, 0, 10_000, A100)
    assert crowded.bound == "special" and crowded.cycles == 100 * 4 * 32 / 16  # 16 a cycle
    assert crowded.pipes["issue"] == 100
    lonely = limit([Instruction("FADD", "")] * 100, 4, 32, 0, 1, A100)
    assert lonely.bound == "latency" and lonely.resident == 1 and lonely.cycles == 250


def test_the_matrix_floor_is_the_chips_peak_and_old_instructions_do_not_reach_it_on_hopper() -> None:
    body = [Instruction("HMMA.16816.F32.BF16", "")] * 1000
    on_a100, on_h100 = (limit(body, 4, 32, 0, 10_000, chip) for chip in (A100, H100))
    assert on_a100.matmul_floor == 1000 * 4 * 2048 / 1024 and on_a100.matmul_share == 1
    assert on_h100.matmul_floor == on_a100.matmul_floor / 2 and on_h100.matmul_share == pytest.approx(0.62)


def test_programs_on_a_multiprocessor_follow_from_registers_warps_and_shared_memory() -> None:
    assert resident(4, 255, 0, A100) == 2 and resident(4, 128, 0, A100) == 4 and resident(4, 16, 0, A100) == 16
    assert (
        resident(4, 32, 80 * 1024, A100) == 2
        and resident(4, 32, 80 * 1024, H100) == 2
        and resident(8, 255, 227 * 1024, H100) == 1
    )


def test_what_attention_needs_is_four_products_forward_and_eleven_backward() -> None:
    one = 2 * 512 * 512 * 64
    assert needed_flops("forward", 32, 16, 512, 64) == 4 * one * 32 * 16
    assert needed_flops("backward", 1, 1, 512, 64) == 11 * one


def test_form_tables_makes_a_little_more_than_is_needed_and_form_fused_as_much_as_its_tiles_overlap() -> None:
    tile = Tile(64, 64, 4, 1)
    names = ("build", "forward", "scores_backward", "grad_side", "grad_table", "grad_queries", "grad_keys", "grad_positions")
    taken = dict.fromkeys(names, tile)
    band = 576 / 512  # 64 rows see 575 distances
    assert made_units("tables", "forward", taken, 512) == 2 + 2 * band
    assert made_units("tables", "backward", taken, 512) == 2 * band + 3 + 2 * (1 + band) + 2 * band
    assert made_units("fused", "forward", taken, 512) == 1 + 2 * 2 + 1  # 128 distances of 64 keys, twice
    wider = {**taken, "forward": Tile(128, 32, 4, 1)}
    assert made_units("fused", "forward", wider, 512) == 1 + 256 / 32 + 256 / 128 + 1


def test_the_share_of_the_peak_is_work_over_time() -> None:
    assert share(4, 1e-3, 32, 16, 512, 64, 4 * 2 * 512 * 512 * 64 * 32 * 16 * 1e3) == pytest.approx(1)


def test_a_row_has_ratios_to_the_first_way_and_backward_is_both_less_forward() -> None:
    medians = {"sdpa": {"forward": 4e-3, "forward and backward": 10e-3}, "ours": {"forward": 1e-3, "forward and backward": 5e-3}}
    units = {"forward": 4.0, "backward": 11.0}
    row = row_of("ours", medians, units, (32, 512, 16, 64), 800e12)
    assert (row["forward_us"], row["both_us"], row["forward_ratio"], row["both_ratio"]) == (1000, 5000, 4, 2)
    assert row["forward_share"] == pytest.approx(share(4, 1e-3, 32, 16, 512, 64, 800e12))
    assert row["backward_share"] == pytest.approx(share(11, 4e-3, 32, 16, 512, 64, 800e12))
    unknown = row_of("sdpa", medians, units, (32, 512, 16, 64), None)
    assert unknown["both_ratio"] == 1 and unknown["forward_share"] is None
    options = {"batch": 32, "head_size": 64, "dtype": "bfloat16", "dropout": 0.1, "rounds": 3}
    entries = [r | {"kept_mib": 1.0, "peak_mib": 2.0} for r in (unknown, row)]
    printed = table({"machine": "a GPU", "torch": "2", "options": options, "rows": entries})
    assert len(printed) == 3 and "x2.00" in printed[2] and "16 heads of 64" in printed[0]


def test_the_formula_that_gpus_are_checked_against_is_the_cpus_own_way_and_drops_what_it_drops() -> None:
    for case in (Case(2, 21, 2, 32, 8, documents=True, dropout=0.3), Case(1, 9, 2, 32, 8, ("p2c",), dtype=torch.float16)):
        call = call_of(case, torch.device("cpu"))
        upstream = torch.randn(case.batch, case.length, case.heads, case.size, dtype=torch.float64)
        leaves = [
            None if t is None else t.double().requires_grad_() for t in (call.qkv, call.position_keys, call.position_queries)
        ]
        out = attend(*leaves, call.bucket_ids, 16, call.document_ids, call.seed, call.dropout, call.scale)
        gradients = torch.autograd.grad(out, [leaf for leaf in leaves if leaf is not None], upstream)
        exact = formula(call, upstream)
        found = dict(zip(exact, (out.detach(), *gradients), strict=True))
        assert max(errors(found, exact).values()) < 1e-9
        found["out"][0, 0, 0, 0] = float("nan")
        assert errors(found, exact)["out"] == float("inf")


@pytest.mark.parametrize(
    "program",
    ["bench.attention", "bench.kernels.check_kernels", "bench.kernels.loss_parity", "jadeberta.model.attention.triton.tune"],
)
def test_what_needs_a_gpu_says_so_in_one_sentence_and_leaves_the_table_of_tiles(program, monkeypatch, capsys) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(sys, "argv", [program])
    before = tiles.TABLE.read_bytes()
    assert importlib.import_module(program).main() == 2
    said = capsys.readouterr()
    assert said.out == "" and said.err.count("\n") == 1 and "no GPU" in said.err
    assert tiles.TABLE.read_bytes() == before


def test_another_packages_function_is_timed_alone_with_all_that_its_module_gives_it(monkeypatch) -> None:
    """Stand-ins for the package: one whose module calls the function, and one whose module does not any more."""
    inner = SimpleNamespace(flash_attention_with_disentangled=lambda q, k, v, keys, scale: (q + k + v + keys.sum()) * scale)

    class Flash(DisentangledSelfAttention):
        def forward(self, hidden_states, *_, rel_embeddings=None, **__):
            q, k, v = (layer(hidden_states) for layer in (self.query_proj, self.key_proj, self.value_proj))
            calls.append(q)
            return inner.flash_attention_with_disentangled(q, k, v, self.key_proj(rel_embeddings), scale=2.0), None

    class Changed(Flash):
        def forward(self, hidden_states, *_, **__):
            return hidden_states, None

    calls: list[torch.Tensor] = []
    name, package = "flashdeberta, no attention dropout", SimpleNamespace(FlashDisentangledSelfAttention=Flash, model=inner)
    monkeypatch.setitem(sys.modules, "flashdeberta", package)
    monkeypatch.setitem(sys.modules, "flashdeberta.model", inner)
    call = call_of(Case(2, 16, 2, 32, dtype=torch.float32), torch.device("cpu"))
    way = theirs(name, call)
    assert len(calls) == 1 and len(way.leaves) == 4 and [tuple(t.shape) for t in way.leaves[:3]] == [(2, 16, 64)] * 3
    out = way.run()
    out.sum().backward()
    q, k, v, keys = way.leaves
    assert torch.equal(out, (q + k + v + keys.sum()) * 2) and torch.equal(q.grad, torch.full_like(q, 2)) and len(calls) == 1
    package.FlashDisentangledSelfAttention = Changed
    with pytest.raises(RuntimeError, match=r"calls no flashdeberta\.model\.flash_attention_with_disentangled any more"):
        theirs(name, call)


def test_the_parity_run_holds_three_runs_a_seed_against_each_other(capsys, monkeypatch) -> None:
    from bench.kernels import loss_parity as parity

    words = "parity.py --device cpu --attention sdpa --steps 6 --rows 2 --length 16 --width 64 --layers 1 --seeds 1"
    monkeypatch.setattr(sys, "argv", words.split())
    status = parity.main()
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in lines[:3]] == [
        "seed 1, draw 1, eager",
        "seed 1, draw 2, eager",
        "seed 1, draw 3, sdpa",
    ]
    assert lines[3].startswith("6 steps of 2 x 16: sdpa less eager") and status == int("NOT" in lines[3])


def test_the_text_of_the_parity_run_can_be_learnt_and_depends_on_the_step_alone() -> None:
    from bench.kernels.loss_parity import FOLLOWERS, MASK, batch

    ids, labels = batch(4, 512, 3)
    assert torch.equal(ids, batch(4, 512, 3)[0]) and not torch.equal(ids, batch(4, 512, 4)[0])
    masked = labels >= 0
    assert torch.equal(masked, ids == MASK) and 0.1 < masked.float().mean() < 0.2
    tokens = ids.where(~masked, labels)
    pairs = {(int(a), int(b)) for row in tokens for a, b in pairwise(row)}
    followers = {a: sum(first == a for first, _ in pairs) for a, _ in pairs}
    assert max(followers.values()) <= FOLLOWERS
