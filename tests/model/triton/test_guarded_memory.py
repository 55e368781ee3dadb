"""The fused kernels write every element of what they give and nothing around it, read nothing that is not theirs, and keep little."""

import pytest
import torch

from tests.model.triton.cases import Case, inputs_of, kernels, settled, upstream_of
from tests.model.triton.guarded_memory import Guards, guarded

FORMS = pytest.mark.parametrize("form", [("fused", "fused"), ("tables", "tables")], ids=lambda f: f[0])


def in_guarded_memory(case: Case) -> dict[str, bool]:
    """What holds when all memory is guarded and holds NaNs at first."""
    from jadeberta.model.attention.triton import fused, tables
    from jadeberta.model.attention.triton.arguments import KernelArguments

    expected = list(kernels(case).values())
    given = inputs_of(case)
    names = ("qkv", "position_keys", "position_queries", "bucket_ids", "document_ids")
    with settled(case), guarded() as guards, torch.no_grad():
        tensors = [None if given[name] is None else guards.copy(given[name]) for name in names]
        before = [None if t is None else t.clone() for t in tensors]
        call = KernelArguments(*tensors, guards.copy(torch.tensor(case.seed)), case.dropout, given["scale"])
        upstream = guards.copy(upstream_of(case))
        form = {"fused": fused, "tables": tables}[case.form[0]]
        taken = len(guards)
        out, lse = form.forward(call)
        found = [out, *(g for g in form.backward(call, upstream, out, lse) if g is not None)]
        return {
            "memory was taken from the guards": len(guards) > taken + 4,
            "nothing around was written": guards.whole(),
            "inputs are as they were": all(t is None or torch.equal(t, b) for t, b in zip(tensors, before, strict=True)),
            "every number was written": all(bool(t.isfinite().all()) for t in (*found, lse)),
            "results are those in other memory": all(torch.equal(f, e) for f, e in zip(found, expected, strict=True)),
        }


@FORMS
@pytest.mark.parametrize("case", [
    Case(length=33, dropout=0.1, documents=True, part=1), Case(length=16, terms=("c2p",)), Case(length=1, batch=1, terms=()),
    Case(length=47, batch=1, dtype=torch.float16),
], ids=str)  # fmt: skip
def test_every_element_is_written_and_nothing_outside_is_written_or_read(form, case, interpreted) -> None:
    case = Case(**{**vars(case), "form": form})
    held = interpreted(in_guarded_memory, case)
    assert all(held.values()), held


def test_guards_notice_a_write_on_either_side() -> None:
    for place in (0, -1):
        guards = Guards()
        x = guards.make((3,), torch.float32)
        assert guards.whole() and x.isnan().all()
        guards._buffers[1 + place][place] = 0
        assert not guards.whole()


def kept_for_backward(case: Case) -> list[tuple[int, ...]]:
    shapes: list[tuple[int, ...]] = []

    def keep(x: torch.Tensor) -> torch.Tensor:
        shapes.append(tuple(x.shape))
        return x

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
        kernels(case)
    return shapes


@FORMS
def test_only_inputs_the_context_and_one_number_a_row_are_kept_for_backward(form, interpreted) -> None:
    kept = interpreted(kept_for_backward, Case(form, 40, dropout=0.1, documents=True))
    qkv, table, context = (2, 40, 3, 1, 32), (16, 1, 32), (2, 40, 1, 32)
    assert sorted(kept) == sorted([qkv, table, table, (79,), (2, 40), (), context, (2, 1, 40)])
