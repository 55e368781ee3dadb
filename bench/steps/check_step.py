"""Checks on this machine's GPU what the tests can only check around it.

`python bench/steps/check_step.py`; status 1 where something is wrong. `--quick`: sdpa alone on one shape, as a part of bench/gpu.sh does;
`--rehearse`: the same on the CPU with tiny sizes.

Loss and gradients of a model of large's width against Hugging Face's eager one in fp64, by dtype, with padding and with documents, compiled
and not; dropout's share and its repetition from a seed.
"""

import argparse
import copy
import sys
from itertools import product
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from jadeberta.config import ModelConfig
from jadeberta.model import DebertaForMaskedLM, build

SIZES: dict[str, Any] = {
    "hidden_size": 1024,
    "num_hidden_layers": 2,
    "num_attention_heads": 16,
    "intermediate_size": 4096,
    "vocab_size": 2000,
}
LIMITS = {torch.float32: 1e-3, torch.float16: 3e-2, torch.bfloat16: 6e-2}
"""Relative error of all gradients together; fp32 with TF32 off."""


SMALL = {"hidden_size": 64, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 64}
SHAPES = ((512, 100), (512, 0), (200, 30), (31, 0))
"""Tokens of a row, and how many of them are padding in one of the rows."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--rehearse", action="store_true")
    options = parser.parse_args()
    if not options.rehearse and not torch.cuda.is_available():
        print("no GPU here: nothing was checked", file=sys.stderr)
        return 2
    device, failed = torch.device("cpu" if options.rehearse else "cuda"), 0
    is_quick = options.quick or options.rehearse
    shapes = ((32, 8),) if options.rehearse else SHAPES[:1] if is_quick else SHAPES
    attentions = ("sdpa",) if is_quick else ("sdpa", "fused")
    torch.backends.cuda.matmul.allow_tf32 = False
    sizes = SIZES | (SMALL | {"pooler_hidden_size": 64} if options.rehearse else {})
    config = ModelConfig(**sizes, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0).hugging_face()
    weights = build(config, "eager", seed=1).state_dict()

    def model(attention: str, dtype: torch.dtype) -> DebertaForMaskedLM:
        made = build(copy.deepcopy(config), attention).to(device, dtype)  # type: ignore[arg-type]
        made.load_state_dict(weights)
        return made

    for length, padding in shapes:
        ids = torch.randint(5, 2000, (4, length), device=device)
        mask = torch.ones_like(ids)
        if padding:
            mask[1, -padding:], ids[1, -padding:] = 0, 0
        exact = gradients(model("eager", torch.float64), ids, mask)
        for dtype, limit in LIMITS.items():
            eager = distance(gradients(model("eager", dtype), ids, mask), exact)
            # A compilation takes seconds: only of the dtype that is trained in.
            for attention, compiled in product(attentions, (False, True) if dtype is torch.bfloat16 else (False,)):
                ours = model(attention, dtype)
                if compiled:
                    backend = "aot_eager" if options.rehearse else "inductor"
                    ours.forward = torch.compile(ours.forward, fullgraph=True, dynamic=False, backend=backend)  # type: ignore[method-assign]
                error = distance(gradients(ours, ids, mask if padding else None), exact)
                # Where Hugging Face's own model is further off than the limit, ours may be about as far off.
                good = error <= max(limit, 1.1 * eager)
                failed += not good
                name = f"{attention}, {length} tokens, {padding} padded, {dtype}{', compiled' if compiled else ''}"
                print(
                    f"{'ok   ' if good else 'WRONG'} {name}: gradients off by {error:.1e}, Hugging Face's by {eager:.1e}",
                    flush=True,
                )
    for attention in () if is_quick else attentions:
        failed += not check_documents(model(attention, torch.float32))
        failed += not check_dropout(weights, attention)
    print("all right" if not failed else f"{failed} wrong")
    return int(failed > 0)


def gradients(model: DebertaForMaskedLM, ids: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
    """Loss and all gradients in one fp64 vector."""
    labels = ids.where(ids.ne(0) & (torch.arange(ids.numel(), device=ids.device).view_as(ids) % 7 == 0), -100)
    loss = model(ids, attention_mask=mask, labels=labels, z_loss=0.0).loss / labels.ge(0).sum()
    loss.backward()
    parts = [loss.detach().view(1), *(p.grad.flatten() for p in model.parameters() if p.grad is not None)]
    return torch.cat([part.double() for part in parts])


def distance(found: torch.Tensor, exact: torch.Tensor) -> float:
    return float((found - exact).norm() / exact.norm())


def check_documents(model: DebertaForMaskedLM) -> bool:
    """A packed row gives each document what it gets alone."""
    ids = torch.randint(5, 2000, (1, 512), device="cuda")
    numbers = torch.tensor([[1] * 200 + [2] * 250 + [3] * 62], device="cuda")
    with torch.no_grad():
        packed = model(ids, document_ids=numbers).logits[0]
        worst = max(float((packed[numbers[0] == n] - model(ids[:, numbers[0] == n]).logits[0]).abs().max()) for n in (1, 2, 3))
    print(f"{'ok   ' if worst < 1e-3 else 'WRONG'} {model.attention_backend}, documents in one row: off by {worst:.1e}")
    return worst < 1e-3


def check_dropout(weights: dict[str, torch.Tensor], attention: str) -> bool:
    """The same seed drops the same weights, another drops others, and forward and backward agree on which."""
    config = ModelConfig(**SIZES, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.3).hugging_face()
    model = build(config, attention).to("cuda", torch.float32).train()  # type: ignore[arg-type]
    model.load_state_dict(weights)
    ids = torch.randint(5, 2000, (2, 512), device="cuda")
    embedding = model.deberta.embeddings.word_embeddings.weight

    def loss(seed: int, nudge: torch.Tensor | None = None) -> torch.Tensor:
        torch.manual_seed(seed)
        with torch.no_grad():
            if nudge is not None:
                embedding.add_(nudge)
        value = model(ids, labels=ids, z_loss=0.0).loss / ids.numel()
        with torch.no_grad():
            if nudge is not None:
                embedding.sub_(nudge)
        return value

    first = loss(1)
    repeated = torch.equal(first, loss(1)) and not torch.equal(first, loss(2))
    first.backward()
    assert embedding.grad is not None
    direction = embedding.grad / embedding.grad.norm()
    slope = float(embedding.grad.norm())
    step = 1e-2
    # The difference quotient equals the gradient only if both passes drop the same weights.
    measured = (loss(1, step * direction) - loss(1, -step * direction)).item() / (2 * step)
    good = repeated and abs(measured - slope) < 0.02 * slope
    told = f"slope {measured:.5f} measured along the gradient, {slope:.5f} by backward"
    print(f"{'ok   ' if good else 'WRONG'} {attention}, dropout: {told}")
    return good


if __name__ == "__main__":
    sys.exit(main())
