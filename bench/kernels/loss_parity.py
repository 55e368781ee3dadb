"""Whether the kernels train like Hugging Face's eager attention on a GPU.

`python bench/kernels/loss_parity.py [--steps 300]`; status 1 if not.

For each seed three runs of a small model in bf16, with fp32 weights behind it, see the same batches from the same weights: eager, eager
with other dropout, and the kernels. The difference of the kernels is held against the difference that the dropout alone makes
(`bench/loss_curves/significance.py`). The text is drawn from a chain of tokens, so that there is something to learn; needs nothing but
torch.
"""

import argparse
import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from bench.loss_curves.significance import compare
from jadeberta.config import ModelConfig
from jadeberta.model import build
from jadeberta.shards.tokenizer_format import MASK, SPECIAL_TOKENS

VOCABULARY, FIRST_TOKEN = 512, len(SPECIAL_TOKENS)
FOLLOWERS = 4
"""Tokens that may follow a token."""


def batch(rows: int, length: int, step: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Tokens with 15% masked, and labels, int64 [rows, length] each, on the CPU; a function of the step alone."""
    chain = torch.randint(FIRST_TOKEN, VOCABULARY, (VOCABULARY, FOLLOWERS), generator=torch.Generator().manual_seed(0))
    generator = torch.Generator().manual_seed(step + 1)
    tokens = torch.empty(rows, length, dtype=torch.int64)
    tokens[:, 0] = torch.randint(FIRST_TOKEN, VOCABULARY, (rows,), generator=generator)
    choices = torch.randint(FOLLOWERS, (rows, length), generator=generator)
    for place in range(1, length):
        tokens[:, place] = chain[tokens[:, place - 1], choices[:, place]]
    masked = torch.rand(rows, length, generator=generator) < 0.15
    return tokens.masked_fill(masked, MASK), tokens.masked_fill(~masked, -100)


def losses(
    attention: str, seed: int, dropout_seed: int, batches: list[tuple[torch.Tensor, torch.Tensor]], sizes: dict[str, int]
) -> list[float]:
    """Of each step of one run."""
    device = batches[0][0].device
    config = ModelConfig(vocab_size=VOCABULARY, pooler_hidden_size=sizes["hidden_size"], **sizes).hugging_face()  # type: ignore[arg-type]
    model = build(config, attention, seed=seed)
    model.to(device=device, dtype=torch.bfloat16).train()  # type: ignore[call-arg]
    working: list[torch.Tensor] = list(model.parameters())
    # Updates go into fp32 copies: bf16 would round small ones away.
    behind = [p.detach().float().requires_grad_() for p in working]
    optimizer = torch.optim.AdamW(behind, lr=1e-3, betas=(0.9, 0.98), weight_decay=0.01)
    warm_up = max(1, len(batches) // 10)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(1.0, (step + 1) / warm_up))
    found = []
    for step, (ids, labels) in enumerate(batches):
        # Set at each step, so that a step's dropout does not depend on how many numbers the steps before drew.
        torch.manual_seed(1000 * dropout_seed + step)
        loss = model(ids, labels=labels, z_loss=0.0).loss / labels.ge(0).sum()  # a sum in fp32; the mean would be rounded to bf16
        loss.backward()
        # Read after the last step: reading each loss would wait for the device.
        found.append(loss.detach())
        for mine, theirs in zip(behind, working, strict=True):
            mine.grad = None if theirs.grad is None else theirs.grad.float()
            theirs.grad = None
        torch.nn.utils.clip_grad_norm_(behind, 1.0)
        optimizer.step()
        schedule.step()
        with torch.no_grad():
            torch._foreach_copy_(working, behind)
    return [float(loss) for loss in found]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--attention", default="fused", help="held against eager")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--rows", type=int, default=8)
    parser.add_argument("--length", type=int, default=512)
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--device", default="cuda")
    options = parser.parse_args()
    if options.device == "cuda" and not torch.cuda.is_available():
        print("parity: torch finds no GPU here; nothing was trained", file=sys.stderr)
        return 2
    sizes = {
        "hidden_size": options.width, "num_hidden_layers": options.layers, "num_attention_heads": options.width // 64,
        "intermediate_size": 4 * options.width, "max_position_embeddings": options.length,
    }  # fmt: skip
    made = (batch(options.rows, options.length, step) for step in range(options.steps))
    batches = [(ids.to(options.device), labels.to(options.device)) for ids, labels in made]
    runs: list[list[list[float]]] = [[], [], []]
    for seed in options.seeds:
        for found, attention, draw in zip(runs, ("eager", "eager", options.attention), (1, 2, 3), strict=True):
            found.append(losses(attention, seed, draw, batches, sizes))
            last = found[-1][-10:]
            print(
                f"seed {seed}, draw {draw}, {attention}: {found[-1][0]:.4f} at first, {sum(last) / len(last):.4f} in the end",
                flush=True,
            )
    result = compare(runs[0], runs[1], runs[2], max(1, options.steps // 10))
    verdict = "within noise" if result.within_noise else "NOT within noise"
    whole = f"{options.attention} less eager {result.mean:+.5f} +- {result.mean_error:.5f}, probability {result.probability:.3f}"
    window = f"window furthest apart {result.largest:+.4f}, error {result.window_error:.4f}"
    print(f"{options.steps} steps of {options.rows} x {options.length}: {whole}; {window}: {verdict}")
    return 0 if result.within_noise else 1


if __name__ == "__main__":
    sys.exit(main())
