"""How fast the attention of one layer is on a GPU: `python bench/attention.py [--batch 32]`; needs a GPU, or ends with status 2.

Forward, and forward with backward, of torch's memory-efficient kernel with the position scores as its bias, of both forms of our kernels,
and of two other packages where they are installed: in turn in one process, medians. `--output` writes JSON, and a plot beside it.
"""

import argparse
import statistics
import sys
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from bench.kernels.implementations import ENTRIES, Implementation, in_form, ours, theirs
from bench.kernels.matrix_work import NEEDED, made_units, share
from bench.results_file import write_results
from bench.steps.other_packages import versions
from jadeberta.model.attention.triton import tiles
from jadeberta.utils.hardware import peak_flops
from jadeberta.utils.paths import path_option

PASSES = ("forward", "forward and backward")
AHEAD = 40_000_000
"""Clock cycles that the device waits while the host queues what is timed."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=32, help="rows of 512 tokens, the large model's heads")
    parser.add_argument("--dtype", choices=["bfloat16", "float16", "float32"], default="bfloat16")
    parser.add_argument("--head-size", type=int, choices=[32, 64, 128], default=64)
    parser.add_argument("--dropout", type=float, default=0.1)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--output", type=path_option, help="JSON file; the plot goes beside it")
    options = parser.parse_args()
    if not torch.cuda.is_available():
        print("attention: torch finds no GPU here, and the kernels run on nothing else; nothing was measured", file=sys.stderr)
        return 2
    rows = measured(options)
    document = {
        "machine": torch.cuda.get_device_name(),
        "torch": torch.__version__,
        "packages": versions(),
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "options": {k: v for k, v in vars(options).items() if k != "output"},
        "rows": rows,
    }
    print("\n".join(table(document)))
    if options.output is not None:
        write_results(options.output, document)
        draw(document, options.output.with_suffix(".svg"))
    return 0


def measured(options: argparse.Namespace) -> list[dict[str, Any]]:
    """The rows of the table; an implementation that fails gets a printed line and no row."""
    from jadeberta.model.attention.triton.tune import LENGTH, SPAN, problem

    dtype, device = getattr(torch, options.dtype), torch.device("cuda")
    args = problem(options.batch, options.head_size, dtype, device, options.dropout)
    implementations = ours(args, SPAN, LENGTH)
    for name in ENTRIES:
        try:
            implementations.append(theirs(name, args))
        except Exception as e:  # whatever a package raises, the other rows are to be timed
            print(f"no row of {name}: {type(e).__name__}: {str(e).strip().partition(chr(10))[0]}", flush=True)
    seconds: dict[str, dict[str, list[float]]] = {}
    memory: dict[str, tuple[int, int]] = {}
    for round_ in range(options.rounds + 2):
        for implementation in list(implementations):
            try:
                once = timed(implementation)
                if round_ == 1:
                    memory[implementation.name] = held(implementation)
            except Exception as e:
                print(f"no row of {implementation.name}: {type(e).__name__}: {str(e).strip().partition(chr(10))[0]}", flush=True)
                implementations.remove(implementation)
                continue
            if round_ >= 2:  # the first compiles, the second warms up
                for pass_, value in zip(PASSES, once, strict=True):
                    seconds.setdefault(implementation.name, {}).setdefault(pass_, []).append(value)
    medians = {
        implementation.name: {p: statistics.median(seconds[implementation.name][p]) for p in PASSES}
        for implementation in implementations
    }
    capability, peak = torch.cuda.get_device_capability(), peak_flops(torch.cuda.get_device_name())
    rows = []
    for implementation in implementations:
        units = units_of(implementation.form, dtype, options.head_size, capability, LENGTH)
        rows.append(
            row_of(implementation.name, medians, units, args.shape, peak) | memory_of(memory[implementation.name], options.batch)
        )
    return rows


def units_of(form: str | None, dtype: torch.dtype, head_size: int, capability: tuple[int, int], length: int) -> dict[str, float]:
    """Units of matrix work that an implementation does in each pass; for other packages, what the function needs."""
    if form is None:
        return dict(NEEDED)
    names = {kernel for (f, _), kernels in tiles.KERNELS.items() if f == form for kernel in kernels}
    taken = {name: tiles.tile_for(form, name, dtype, head_size, capability) for name in names}
    return {pass_: made_units(form, pass_, taken, length) for pass_ in NEEDED}


def row_of(
    name: str, medians: dict[str, dict[str, float]], units: dict[str, float], shape: tuple[int, int, int, int], peak: float | None
) -> dict[str, Any]:
    """The figures of one implementation; ratios are to the first.

    Args:
        name: of the implementation.
        medians: seconds of both passes, of all ways.
        units: that it makes forward and backward.
        shape: batch, length, heads, head size.
        peak: FLOP/s of the device; None leaves the shares out.
    """
    batch, length, heads, size = shape
    reference = next(iter(medians.values()))
    forward, both = (medians[name][pass_] for pass_ in PASSES)
    shares: dict[str, float | None] = {"forward": None, "backward": None}
    if peak is not None and both > forward:
        for pass_, spent in (("forward", forward), ("backward", both - forward)):
            shares[pass_] = share(units[pass_], spent, batch, heads, length, size, peak)
    return {
        "way": name,
        "forward_us": forward * 1e6,
        "both_us": both * 1e6,
        "forward_ratio": reference[PASSES[0]] / forward,
        "both_ratio": reference[PASSES[1]] / both,
        "forward_share": shares["forward"],
        "backward_share": shares["backward"],
        "units": units,
    }


def memory_of(held_bytes: tuple[int, int], batch: int) -> dict[str, float]:
    """Kept from forward to backward, and at the peak of both, MiB a row."""
    return {"kept_mib": held_bytes[0] / batch / 2**20, "peak_mib": held_bytes[1] / batch / 2**20}


def table(document: dict[str, Any]) -> list[str]:
    """What is printed."""
    options = document["options"]
    heads = f"{1024 // options['head_size']} heads of {options['head_size']}"
    setting = f"{options['batch']} x 512, {heads}, {options['dtype']}, dropout {options['dropout']}"
    lines = [
        f"{document['machine']}, torch {document['torch']}; {setting}; median of {options['rounds']}; shares of the matrix peak"
    ]
    for row in document["rows"]:
        shares = "".join(f"{row[f'{p}_share']:6.1%}" if row[f"{p}_share"] is not None else "     -" for p in NEEDED)
        forward = f"forward {row['forward_us']:8.0f} us x{row['forward_ratio']:.2f}"
        both = f"both {row['both_us']:8.0f} us x{row['both_ratio']:.2f}"
        memory = f"{row['kept_mib']:7.1f} MiB kept, {row['peak_mib']:7.1f} at the peak, a row"
        lines.append(f"  {row['way']:<36} {forward}  {both}  {shares}  {memory}")
    return lines


def timed(implementation: Implementation) -> tuple[float, float]:
    """Seconds of the forward pass, and of forward and backward, with everything queued before the device begins, as in training."""
    events = [torch.cuda.Event(enable_timing=True) for _ in range(4)]
    with in_form(implementation):
        torch.cuda.synchronize()
        # The device sleeps while everything is queued; otherwise it would wait for the launches.
        torch.cuda._sleep(AHEAD)
        events[0].record()
        implementation.run()
        events[1].record()
        events[2].record()
        out = implementation.run()
        out.backward(torch.ones_like(out))
        events[3].record()
        torch.cuda.synchronize()
    for leaf in implementation.leaves:
        # The next backward pass would otherwise add to it, which takes time.
        leaf.grad = None
    return events[0].elapsed_time(events[1]) / 1e3, events[2].elapsed_time(events[3]) / 1e3


def held(implementation: Implementation) -> tuple[int, int]:
    """Bytes that torch holds between forward and backward beside the leaves, and at the most."""
    with ExitStack() as stack:
        stack.enter_context(in_form(implementation))
        torch.cuda.synchronize()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        out = implementation.run()
        kept = torch.cuda.memory_allocated() - before
        out.backward(torch.ones_like(out))
        torch.cuda.synchronize()
    for leaf in implementation.leaves:
        leaf.grad = None
    return kept, torch.cuda.max_memory_allocated() - before


def draw(document: dict[str, Any], path: Path) -> None:
    """Microseconds of every way as bars, forward and backward stacked, with the ratio to the first."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    rows = document["rows"]
    figure, axes = plt.subplots(figsize=(9, 0.5 * len(rows) + 1.4), layout="constrained")
    names = [row["way"] for row in rows]
    forward = [row["forward_us"] for row in rows]
    axes.barh(names, forward, color="#2166ac", label="forward")
    bars = axes.barh(names, [row["both_us"] - row["forward_us"] for row in rows], left=forward, color="#92c5de", label="backward")
    axes.bar_label(bars, [f"{row['both_us']:,.0f} us  x{row['both_ratio']:.2f}" for row in rows], padding=3, fontsize=9)
    axes.invert_yaxis()
    axes.margins(x=0.2)
    axes.set_xlabel("microseconds of one layer's attention")
    axes.set_title(table(document)[0].partition(";")[0], fontsize=10)
    axes.legend(loc="lower right")
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)


if __name__ == "__main__":
    sys.exit(main())
