"""Time of one training micro-step, Hugging Face's eager model against ours, side by side: `python bench/step.py [--size large]`.

One process, the same weights and batches, the variants in turn, medians; prints a table and writes JSON with the machine's name.
"""

import argparse
import json
import platform
import statistics
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

from jadeberta.config import ModelConfig
from jadeberta.model import build
from jadeberta.training.metrics import peak_flops, training_flops_per_token

SIZES = {
    "tiny": {"hidden_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 512},
    "narrow": {"hidden_size": 1024, "num_hidden_layers": 2, "num_attention_heads": 16, "intermediate_size": 4096},
    "base": {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "intermediate_size": 3072},
    "large": {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16, "intermediate_size": 4096},
}
VARIANTS = {
    "Hugging Face eager, whole head": ("eager", False),
    "eager, masked head": ("eager", True),
    "sdpa, masked head": ("sdpa", True),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", choices=SIZES, default="tiny", help="narrow is large's width with two layers")
    parser.add_argument("--batch", type=int, default=2, help="rows in a micro-step")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--dropout", type=float, default=0.1)
    parser.add_argument("--output", type=Path, help="JSON file")
    options = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    name = torch.cuda.get_device_name() if device.type == "cuda" else f"{platform.machine()}, {torch.get_num_threads()} threads"
    sizes: dict[str, Any] = SIZES[options.size]
    config = ModelConfig(
        **sizes,
        pooler_hidden_size=sizes["hidden_size"],
        hidden_dropout_prob=options.dropout,
        attention_probs_dropout_prob=options.dropout,
    )
    ids = torch.randint(5, config.vocab_size, (options.batch, 512), generator=torch.Generator().manual_seed(0)).to(device)
    index = torch.arange(0, ids.numel(), 7, device=device)  # 1 in 7, about the 15% that are masked
    models = {attention: build(config.hugging_face(), attention, seed=1) for attention in ("eager", "sdpa")}
    for model in models.values():
        model.to(device, getattr(torch, options.dtype)).train()
    times: dict[str, list[float]] = {variant: [] for variant in VARIANTS}
    for round_ in range(options.rounds + 1):
        for variant, (attention, masked_head) in VARIANTS.items():
            seconds = time_step(models[attention], ids, index if masked_head else None)
            if round_:  # the first warms up
                times[variant].append(seconds)
    first = statistics.median(next(iter(times.values())))
    peak = peak_flops(name)
    rows = []
    for variant, seconds in times.items():
        median = statistics.median(seconds)
        share = 1 / 7 if VARIANTS[variant][1] else 1.0
        flops = training_flops_per_token(config, 512, options.batch, share) * ids.numel()
        rows.append({"variant": variant, "seconds": median, "tokens_per_second": ids.numel() / median, "speedup": first / median})
        rows[-1] |= {"tflops": flops / median / 1e12, "mfu": flops / median / peak if peak else None, "rounds": seconds}
    print(
        f"{name}; {options.size}, {options.batch} x 512, {options.dtype}, dropout {options.dropout}, median of {options.rounds}"
    )
    for row in rows:
        mfu = f"  MFU {row['mfu']:.1%}" if row["mfu"] else ""
        print(
            f"  {row['variant']:<32} {row['seconds'] * 1e3:9.1f} ms  {row['tokens_per_second']:10,.0f} tokens/s  x{row['speedup']:.2f}{mfu}"
        )
    if options.output is not None:
        document = {
            "machine": name,
            "torch": torch.__version__,
            "time": datetime.now(UTC).isoformat(),
            **vars(options),
            "rows": rows,
        }
        options.output.write_text(json.dumps(document, indent=2, default=str) + "\n", encoding="utf-8")


def time_step(model: torch.nn.Module, ids: torch.Tensor, index: torch.Tensor | None) -> float:
    """Seconds of one forward and backward pass."""
    began = time.perf_counter()
    logits = model(ids, masked_index=index).logits
    labels = ids.flatten() if index is None else ids.flatten()[index]
    F.cross_entropy(logits.flatten(0, -2).float(), labels).backward()
    model.zero_grad(set_to_none=True)
    if ids.is_cuda:
        torch.cuda.synchronize()
    return time.perf_counter() - began


if __name__ == "__main__":
    main()
