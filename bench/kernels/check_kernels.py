"""Checks the kernels on this machine's GPU.

`python bench/kernels/check_kernels.py [--small]`; status 1 if something is wrong, 2 without a GPU.

Compares the context and every gradient, in both forms and every dtype, with the plain formula in fp64 under the same DropoutMask; ragged
rows and documents are among the cases. Memory is full of NaNs before a kernel writes it, and a repetition must give the same bits.
`--small` is one small case of each form, for compute-sanitizer, under which everything takes a hundred times longer.
"""

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from bench.kernels.formula import formula
from jadeberta.model.attention import triton as triton_attention
from jadeberta.model.attention.relative_positions import distance_buckets
from jadeberta.model.attention.triton import tiles
from jadeberta.model.attention.triton.arguments import KernelArguments

LIMITS = {torch.float32: 2e-5, torch.float16: 5e-3, torch.bfloat16: 3e-2}
"""Largest error, as a share of the largest number of a result; rounding of the dtype through a row of sums."""
FORMS = ("fused", "tables")


@dataclass(frozen=True)
class Case:
    """One problem."""

    batch: int = 2
    length: int = 512
    heads: int = 4
    size: int = 64
    span: int = 256
    terms: tuple[str, ...] = ("c2p", "p2c")
    documents: bool = False
    dropout: float = 0.1
    dtype: torch.dtype = torch.bfloat16

    def __str__(self) -> str:
        """For people."""
        told = f"{self.batch} x {self.length}, {self.heads} heads of {self.size}, {'+'.join(self.terms) or 'no positions'}"
        return (
            f"{told}{', documents' if self.documents else ''}, dropout {self.dropout}, {str(self.dtype).removeprefix('torch.')}"
        )


CASES = [
    *(Case(dtype=dtype) for dtype in LIMITS),
    *(Case(size=size, documents=True) for size in (32, 128)),
    Case(length=511, documents=True),
    Case(length=200, terms=("c2p",)),
    Case(length=31, terms=("p2c",), dropout=0.5),
    Case(length=1),
    Case(length=77, terms=(), documents=True),
    Case(batch=1, heads=2, length=2048, span=256),
    Case(batch=9, heads=16, dropout=0.0),
]
SMALL = [Case(batch=2, length=100, heads=2, documents=True)]


def call_of(case: Case, device: torch.device) -> KernelArguments:
    """Random tensors."""
    generator = torch.Generator(device).manual_seed(case.length)

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, dtype=torch.float32, device=device, generator=generator).to(case.dtype)

    qkv = random(case.batch, case.length, 3, case.heads, case.size)
    keys, queries = (random(2 * case.span, case.heads, case.size) if term in case.terms else None for term in ("c2p", "p2c"))
    bucket_ids = distance_buckets(case.length, case.span, case.span, max(512, case.length), str(device))
    documents = None
    if case.documents:
        documents = torch.randint(0, 3, (case.batch, case.length), device=device, generator=generator).sort(dim=1).values
    scale = (case.size * (1 + len(case.terms))) ** -0.5
    return KernelArguments(qkv, keys, queries, bucket_ids, documents, torch.tensor(7, device=device), case.dropout, scale)


def kernels(args: KernelArguments, upstream: torch.Tensor) -> dict[str, torch.Tensor]:
    """What the kernels give, as `formula` gives it."""
    inputs = {
        name: tensor.detach().clone().requires_grad_()
        for name in ("qkv", "position_keys", "position_queries")
        if (tensor := getattr(args, name)) is not None
    }
    tables = (inputs.get("position_keys"), inputs.get("position_queries"))
    out = triton_attention.attend(inputs["qkv"], *tables, args.bucket_ids, args.document_ids, args.seed, args.dropout, args.scale)
    gradients = torch.autograd.grad(out, list(inputs.values()), upstream)
    return {"out": out.detach(), **dict(zip(inputs, gradients, strict=True))}


def errors(found: dict[str, torch.Tensor], exact: dict[str, torch.Tensor]) -> dict[str, float]:
    """The largest error of each result, as a share of its largest number; NaN and infinity count as infinitely wrong."""
    wrong = {}
    for name, wanted in exact.items():
        error = float((found[name].double() - wanted).abs().max() / wanted.abs().max().clamp(min=1e-3))
        # NaN is the one number that differs from itself; max() over all results could miss it.
        wrong[name] = error if error == error else float("inf")
    return wrong


def checked(
    case: Case, form: str, exact: dict[str, torch.Tensor], args: KernelArguments, upstream: torch.Tensor
) -> tuple[dict[str, float], bool, bool]:
    """The error of each result, whether a repetition gave the same bits, and whether all is right."""
    with tiles.override({}, forms=(form, form)):
        found, again = kernels(args, upstream), kernels(args, upstream)
    worst = errors(found, exact)
    same = all(torch.equal(found[name], again[name]) for name in found)
    return worst, same, same and max(worst.values()) <= LIMITS[case.dtype]


def check(case: Case, form: str, exact: dict[str, torch.Tensor], args: KernelArguments, upstream: torch.Tensor) -> bool:
    """Prints one line."""
    worst, same, good = checked(case, form, exact, args, upstream)
    told = ", ".join(f"{name} {error:.1e}" for name, error in worst.items())
    print(
        f"{'ok   ' if good else 'WRONG'} form {form}, {case}: {told}{'' if same else '; another result when repeated'}",
        flush=True,
    )
    return good


def poison_memory() -> None:
    """Torch fills what it hands out with NaNs from now on: what a kernel forgets to write is seen."""
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = True  # type: ignore[attr-defined]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--small", action="store_true", help="one small case of each form")
    options = parser.parse_args()
    if not torch.cuda.is_available():
        print("kernels: torch finds no GPU here; nothing was checked", file=sys.stderr)
        return 2
    poison_memory()
    device, failed = torch.device("cuda"), 0
    for case in SMALL if options.small else CASES:
        args = call_of(case, device)
        upstream = torch.randn(case.batch, case.length, case.heads, case.size, device=device).to(case.dtype)
        exact = formula(args, upstream)
        failed += sum(not check(case, form, exact, args, upstream) for form in FORMS)
    print("all right" if not failed else f"{failed} wrong")
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
