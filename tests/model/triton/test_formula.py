"""The fused kernels, run in Triton's interpreter, give the formula and its gradients in both forms, and drop what every other way drops."""

from dataclasses import replace

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.model.triton import cases
from tests.model.triton.cases import Case

FUSED, TABLES = ("fused", "fused"), ("tables", "tables")
FORMS = pytest.mark.parametrize("form", [FUSED, TABLES], ids=lambda f: f[0])
HALF = torch.float16
TOLERANCE = {torch.float32: 2e-6, HALF: 2e-3}


@FORMS
@pytest.mark.parametrize("case", [
    Case(length=1), Case(length=2, heads=2, dropout=0.1), Case(length=31, documents=True, dropout=0.3, part=1),
    Case(length=32, dropout=0.1),
    Case(length=33, heads=2, terms=("c2p",), documents=True), Case(length=33, heads=3, batch=1, terms=("p2c",), dropout=0.1),
    Case(length=20, terms=(), documents=True), Case(length=37, batch=1, size=64, dtype=HALF, dropout=0.1),
    Case(length=40, size=128, batch=3, part=2), Case(length=50, batch=1, span=40, buckets=-1), Case(length=20, size=128, dtype=HALF),
    Case(length=37, batch=1, dropout=0.1, blocks=(16, 16)),
    Case(length=200, batch=1, documents=True, blocks=(64, 64), span=32, buckets=32),
], ids=str)  # fmt: skip
def test_context_and_every_gradient_are_the_formulas(form, case, interpreted) -> None:
    found = interpreted(cases.errors, replace(case, form=form))
    assert len(found) == 2 + len(case.terms)
    assert max(found.values()) < TOLERANCE[case.dtype], found


@pytest.mark.parametrize("some_heads", [1, 2])
def test_some_heads_of_a_row_at_once_give_the_bits_of_all(some_heads, interpreted) -> None:
    """Also of a second row of the batch, with documents, and where the heads do not divide."""
    case = Case(TABLES, 33, heads=3, dropout=0.2, documents=True, part=1)
    assert all(interpreted(cases.same_bits, case, replace(case, some_heads=some_heads)).values())


@FORMS
def test_a_long_ragged_row_is_the_formulas(form, interpreted) -> None:
    case = Case(form, 511, batch=1, span=256, buckets=256, dropout=0.1, blocks=(128, 128))
    assert max(interpreted(cases.errors, case).values()) < 5e-6


@pytest.mark.long
@pytest.mark.parametrize("length", [4096, 8192])
def test_the_longest_rows_give_what_blocks_of_queries_give(length, interpreted) -> None:
    case = Case(TABLES, length, batch=1, span=256, buckets=256, dropout=0.1, documents=True, blocks=(512, 512))
    assert interpreted(cases.head_by_head_difference, case) < 2e-5


@settings(max_examples=6, suppress_health_check=list(HealthCheck))
@given(
    forms=st.tuples(st.sampled_from(["fused", "tables"]), st.sampled_from(["fused", "tables"])), length=st.integers(1, 66),
    batch=st.integers(1, 2), heads=st.integers(1, 2), span=st.integers(2, 90), bucketed=st.booleans(),
    terms=st.sampled_from([("c2p", "p2c"), ("c2p",), ("p2c",)]), documents=st.booleans(), dropout=st.sampled_from([0.0, 0.25]),
    edge=st.sampled_from([16, 32, 64]), part=st.integers(1, 2),
)  # fmt: skip
def test_any_shape_is_the_formulas_also_where_the_two_passes_take_different_forms(
    forms, length, batch, heads, span, bucketed, terms, documents, dropout, edge, part, interpreted
) -> None:
    buckets = span if bucketed and span < 64 else -1
    part = min(part, batch)
    case = Case(forms, length, batch, heads, 32, span, buckets, terms, documents, dropout, blocks=(edge, edge), part=part)
    assert max(interpreted(cases.errors, case).values()) < TOLERANCE[torch.float32]


@FORMS
@pytest.mark.parametrize(
    ("seed", "length", "dropout", "blocks"),
    [(5, 64, 0.1, (64, 64)), (5, 64, 0.1, (32, 32)), (-(2**62) - 3, 63, 0.5, (32, 32)), (2**63 - 1, 17, 0.9, (16, 16))],
)
def test_forward_and_backward_drop_bit_for_bit_what_the_cpu_drops_whatever_the_tile(
    form, seed, length, dropout, blocks, interpreted
) -> None:
    case = Case(form, length, batch=1, heads=2, size=64, dropout=dropout, blocks=blocks, seed=seed)
    assert interpreted(cases.dropped_alike, case) == (True, True)


@FORMS
def test_a_seed_gives_what_it_gives_head_by_head(form, interpreted) -> None:
    case = Case(form, 45, heads=3, batch=1, dropout=0.2, documents=True, seed=987654321)
    assert interpreted(cases.head_by_head_difference, case) < 1e-5


@FORMS
def test_tiles_and_parts_change_results_by_rounding_only(form, interpreted) -> None:
    case = Case(form, 33, batch=3, dropout=0.2, blocks=(64, 64))
    assert interpreted(cases.largest_difference, case, replace(case, blocks=(16, 16), part=2)) < 1e-5


def test_blocks_need_not_be_square(interpreted) -> None:
    for blocks in ((16, 64), (64, 16)):
        assert (
            max(interpreted(cases.errors, Case(TABLES, 45, batch=1, dropout=0.2, blocks=blocks)).values())
            < TOLERANCE[torch.float32]
        )


@FORMS
def test_the_same_call_gives_the_same_bits(form, interpreted) -> None:
    case = Case(form, 33, dropout=0.2, documents=True, part=1)
    assert interpreted(cases.same_bits, case, case) == dict.fromkeys(("out", "qkv", "position_keys", "position_queries"), True)


@FORMS
def test_one_document_is_no_document(form, interpreted) -> None:
    assert interpreted(cases.one_document_alike, Case(form, 33, batch=1, dropout=0.1))
