"""What a training micro-step costs: Hugging Face's eager model against ours: `python bench/step.py [--size large] [--dtype bfloat16]`.

Two parts. `account`: bytes, kernels and kept activations at large, counted without a device. `time`: every way in turn in one process,
on the same weights and batches, medians. Prints tables; `--output` writes JSON, and a plot beside it.
"""

import argparse
import platform
import statistics
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from bench.results_file import write_results
from bench.steps.other_packages import versions
from bench.steps.variants import Setting, Timing, measure, ways_on
from jadeberta.config import ModelConfig, load_recipe
from jadeberta.training.metrics import training_flops_per_token
from jadeberta.utils.hardware import peak_flops
from jadeberta.utils.paths import path_option

SIZES: dict[str, dict[str, Any]] = {
    "tiny": {"hidden_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 512},
    "narrow": {"hidden_size": 1024, "num_hidden_layers": 2, "num_attention_heads": 16, "intermediate_size": 4096},
    "base": {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "intermediate_size": 3072},
    "large": {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16, "intermediate_size": 4096},
}
ACCOUNT_BATCH = 18
"""Sequences of the account: the published run's micro-batch."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=["account", "time"], default=["account", "time"])
    parser.add_argument("--size", choices=SIZES, default="tiny", help="narrow is large's width with two layers")
    parser.add_argument("--batch", type=int, default=2, help="rows in a micro-step")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--warm-up", type=int, default=1, help="rounds that do not count")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--dropout", type=float, default=0.1)
    parser.add_argument("--uncompiled", action="store_true", help="leave out torch.compile, which takes minutes")
    parser.add_argument(
        "--brief", action="store_true", help="the whole head only of Hugging Face's model as it is; the masked head of all"
    )
    parser.add_argument(
        "--seconds", type=float, default=86400, help="after so long no way is compiled any more, and no round begun"
    )
    parser.add_argument("--output", type=path_option, help="JSON file, written after every round; the plot goes beside it")
    options = parser.parse_args()
    document: dict[str, Any] = {
        "machine": machine(),
        "torch": torch.__version__,
        "packages": versions(),
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    document["options"] = {k: v for k, v in vars(options).items() if k != "output"}
    if "account" in options.parts:
        document["account"] = count()

    def keep(rows: list[dict[str, Any]] | None) -> None:
        if rows is not None:
            document["rows"] = rows
        if options.output is not None:
            write_results(options.output, document)

    keep(timed(options, keep) if "time" in options.parts else None)
    if options.output is not None and document.get("rows"):
        draw(document, options.output.with_suffix(".svg"))


def machine() -> str:
    """What the figures belong to."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    names = [
        line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")
    ]
    return f"{names[0] if names else platform.machine()}, {torch.get_num_threads()} threads"


def count() -> list[dict[str, Any]]:
    """The account of the large model, eager against ours as compiled for a GPU; prints it."""
    from bench.steps.counted_costs import account  # needs more of torch's inside than the timing does

    config = load_recipe(Path(__file__).resolve().parents[1] / "recipes" / "large.yaml").model
    rows: list[dict[str, Any]] = []
    for name, attention, share, recompute in (
        ("Hugging Face eager, whole head", "eager", None, "none"),
        ("Hugging Face eager, masked head", "eager", 0.15, "none"),
        ("sdpa + compile, whole head", "sdpa", None, "none"),
        ("sdpa + compile, masked head", "sdpa", 0.15, "none"),
        ("the same, recompute: cheap", "sdpa", 0.15, "cheap"),
        ("fused + compile, masked head", "fused", 0.15, "none"),
        ("the same, recompute: cheap", "fused", 0.15, "cheap"),
    ):
        found = account(attention, config, ACCOUNT_BATCH, share, recompute)
        rows.append(
            {"way": name, "gb_moved": found.bytes_moved / 1e9, "kernels": found.kernels, "kept_mib": found.kept_bytes / 2**20}
        )
    print(f"account of large, {ACCOUNT_BATCH} x 512, bf16, dropout 0.1; bytes for each sequence, counted, not measured")
    for row in rows:
        shares = [row[key] / rows[0][key] for key in ("gb_moved", "kernels", "kept_mib")]
        print(
            f"  {row['way']:<34} {row['gb_moved']:6.2f} GB moved ({shares[0]:4.0%})  {row['kernels']:6,.0f} kernels ({shares[1]:4.0%})"
            f"  {row['kept_mib']:6,.0f} MiB kept ({shares[2]:4.0%})",
            flush=True,
        )
    return rows


def timed(options: argparse.Namespace, keep: Callable[[list[dict[str, Any]]], None]) -> list[dict[str, Any]]:
    """Times every way; prints them, and tells `keep` the rows as they are after each round."""
    sizes = SIZES[options.size]
    dropout = {"hidden_dropout_prob": options.dropout, "attention_probs_dropout_prob": options.dropout}
    config = ModelConfig(**sizes, pooler_hidden_size=sizes["hidden_size"], **dropout)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    setting = Setting(config, options.batch, getattr(torch, options.dtype), device)
    ways = [way for way in ways_on(device) if not (options.uncompiled and way.compiled)]
    if options.brief:
        ways = [way for way in ways if way.masked_head or (way.attention, way.compiled) == ("eager", False)]
        # What everybody asks for first, in case that time runs out.
        ways.sort(key=lambda way: way.masked_head and not (way.compiled and way.attention in ("sdpa", "fused")))

    def rows_of(timings: list[Timing]) -> list[dict[str, Any]]:
        return [row_of(timing, setting, statistics.median(timings[0].seconds)) for timing in timings]

    largest, seconds = device.type == "cuda", options.seconds
    timings = measure(setting, ways, options.rounds, options.warm_up, largest, seconds, lambda timings: keep(rows_of(timings)))
    rows = rows_of(timings)
    print(
        f"{machine()}; {options.size}, {options.batch} x 512, {options.dtype}, dropout {options.dropout}, median of {options.rounds}"
    )
    for row in rows:
        mfu = f"  MFU {row['mfu']:5.1%}" if row["mfu"] else ""
        memory = f"  {row['peak_gib']:6.1f} GiB, at most {row['largest_micro_batch']} rows" if row["peak_gib"] else ""
        speed = f"{row['seconds'] * 1e3:9.1f} ms  {row['tokens_per_second']:10,.0f} tokens/s  x{row['ratio']:.2f}"
        print(f"  {row['way']:<44} {speed}{mfu}{memory}", flush=True)
    return rows


def row_of(timing: Timing, setting: Setting, first: float) -> dict[str, Any]:
    """The figures of one way; its ratio is to `first`, the seconds of the first."""
    median, tokens = statistics.median(timing.seconds), setting.batch * setting.config.max_position_embeddings
    share = setting.mask_probability if timing.way.masked_head else 1.0
    flops = training_flops_per_token(setting.config, setting.config.max_position_embeddings, setting.batch, share) * tokens
    peak = peak_flops(machine())
    return {
        "way": timing.way.name,
        "seconds": median,
        "tokens_per_second": tokens / median,
        "ratio": first / median,
        "tflops": flops / median / 1e12,
        "mfu": flops / median / peak if peak else None,
        "peak_gib": timing.peak_bytes / 2**30 if timing.peak_bytes else None,
        "largest_micro_batch": timing.largest_micro_batch,
        "rounds": timing.seconds,
    }


def draw(document: dict[str, Any], path: Path) -> None:
    """Tokens/s of every way as bars, with the ratio to the first."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    rows, options = document["rows"], document["options"]
    figure, axes = plt.subplots(figsize=(9, 0.5 * len(rows) + 1.4), layout="constrained")
    colours = ["#2166ac" if row["way"].startswith(("sdpa", "fused")) else "#999999" for row in rows]
    bars = axes.barh([row["way"] for row in rows], [row["tokens_per_second"] for row in rows], color=colours)
    axes.bar_label(bars, [f"{row['tokens_per_second']:,.0f}  x{row['ratio']:.2f}" for row in rows], padding=3, fontsize=9)
    axes.invert_yaxis()
    axes.margins(x=0.2)
    axes.set_xlabel("tokens/s, forward and backward")
    setting = f"{options['size']}, {options['batch']} x 512, {options['dtype']}, dropout {options['dropout']}"
    axes.set_title(f"{document['machine']}: {setting}", fontsize=10)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)


if __name__ == "__main__":
    main()
