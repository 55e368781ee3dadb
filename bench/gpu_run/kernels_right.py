"""Part: whether the kernels are right, the case that the training needs first: bf16, heads of 64, 512 tokens, form `tables`.

Against the plain formula in fp64 under the same dropout mask, with memory full of NaNs, twice for the same bits.
"""

import torch

from bench.gpu_run.one_part import PartRows
from bench.gpu_run.stand_in import Machine
from bench.kernels.check_kernels import Case, call_of, checked, poison_memory
from bench.kernels.formula import formula

CASES = [
    ("tables", Case()),
    ("tables", Case(documents=True)),
    ("tables", Case(batch=9, heads=16, dropout=0.0)),
    ("tables", Case(length=511, documents=True)),
    ("fused", Case()),
    ("tables", Case(batch=1, heads=2, length=2048)),
    ("fused", Case(documents=True)),
    ("tables", Case(size=128)),
    ("tables", Case(length=31, terms=("p2c",), dropout=0.5)),
    ("tables", Case(dtype=torch.float16)),
    ("tables", Case(dtype=torch.float32)),
]
REHEARSED = [("tables", Case(batch=1, length=17, heads=1, size=32, span=8, dtype=torch.float32))]
"""For Triton's interpreter, which has no bf16."""


def measure(machine: Machine, rows: PartRows, way: str) -> int:
    """One row a case, wrong or right; the status is 1 where one is wrong."""
    poison_memory()
    wrong = 0
    for form, case in REHEARSED if machine.rehearse else CASES:
        name = f"form {form}, {case}"
        if machine.left() < 5:
            rows.put("not_reached", name)
            break
        try:
            args = call_of(case, machine.device)
            upstream = torch.randn(case.batch, case.length, case.heads, case.size, device=machine.device).to(case.dtype)
            worst, same, good = checked(case, form, formula(args, upstream), args, upstream)
        except Exception as e:  # whatever Triton raises, the other cases are to be had
            rows.add({"way": name, "right": False, "raised": f"{type(e).__name__}: {str(e).strip().partition(chr(10))[0]}"})
            wrong += 1
            continue
        rows.add({"way": name, "right": good, "same_when_repeated": same, "largest_error": max(worst.values()), "errors": worst})
        wrong += not good
    rows.put("wrong", wrong)
    return int(wrong > 0)
