"""What `jadeberta.fast` gives on this machine: `python bench/fast_beside_transformers.py [--hidden 384 --layers 2]`.

transformers' own DebertaV2ForMaskedLM and a copy of it that is fast do the same batches in turn, in one process: a forward pass without
gradients, and a step of training with dropout, forward and backward. Prints medians and their ratio for each length; writes JSON.
"""

import argparse
import copy
import os
import statistics
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import DebertaV2Config, DebertaV2ForMaskedLM

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import jadeberta
from bench.checkpointing.workload import machine, tell, versions
from bench.results_file import write_results
from jadeberta.utils.paths import path_option
from jadeberta.utils.text_table import format_table

VOCABULARY = 2000
"""Small, because head and embeddings are the same in both models."""
TARGET = 0.95
"""From 128 tokens on the fast model is to be no slower than transformers' beyond what two rounds differ."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hidden", type=int, default=384, help="width of the model, a multiple of 64")
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--lengths", type=int, nargs="+", default=[128, 256, 512], metavar="S")
    parser.add_argument("--tokens", type=int, default=2048, help="tokens of a batch")
    parser.add_argument("--padding", type=float, default=0.2, help="share of a row that is padding, on average")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--output", type=path_option, help="JSON file")
    options = parser.parse_args()
    document = measure(options)
    if options.output is not None:
        write_results(options.output, document)
    print("\n".join(table(document)))


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Times both models; the first round of each length, which allocates, does not count."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.manual_seed(0)
    slow: Any = DebertaV2ForMaskedLM(config_of(options))
    slow.to(device)
    models = {"transformers": slow, "fast": jadeberta.fast(copy.deepcopy(slow))}
    rows = []
    for length in options.lengths:
        tell(f"{length} tokens a row")
        batch = {name: tensor.to(device) for name, tensor in batch_of(length, options).items()}
        seconds: dict[str, dict[str, list[float]]] = {way: {name: [] for name in models} for way in PASSES}
        for round_ in range(options.rounds + 1):
            # In turn, and the other one first in every second round: what else the machine does meets both.
            for way, run in PASSES.items():
                for name in sorted(models, reverse=round_ % 2 == 1):
                    once = timed(partial(run, models[name], batch), device)
                    if round_:
                        seconds[way][name].append(once)
        rows.append({"length": length, "rows": len(batch["input_ids"]), **{way: row_of(found) for way, found in seconds.items()}})
    return {
        "machine": machine(),
        "versions": versions() | {"transformers": transformers.__version__},
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "load_average": os.getloadavg()[0],
        "threads": torch.get_num_threads(),
        "options": {name: value for name, value in vars(options).items() if name != "output"},
        "lengths": rows,
        "target": {"never_slower_than": TARGET, "met": all(row[way]["ratio"] >= TARGET for row in rows for way in PASSES)},
    }


def row_of(seconds: dict[str, list[float]]) -> dict[str, Any]:
    """Medians of both models, their ratio (above 1: the fast one is faster), and the lowest and highest ratio of a round."""
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    pairs = [slow / fast for slow, fast in zip(seconds["transformers"], seconds["fast"], strict=True)]
    ratio = medians["transformers"] / medians["fast"]
    return {f"{name}_s": value for name, value in medians.items()} | {"ratio": ratio, "lowest": min(pairs), "highest": max(pairs)}


def config_of(options: argparse.Namespace) -> DebertaV2Config:
    """The published model's configuration, narrower."""
    sizes: dict[str, Any] = {
        "vocab_size": VOCABULARY, "hidden_size": options.hidden, "num_hidden_layers": options.layers,
        "num_attention_heads": options.hidden // 64, "intermediate_size": 4 * options.hidden, "pooler_hidden_size": options.hidden,
        "max_position_embeddings": max(512, *options.lengths), "type_vocab_size": 0, "position_biased_input": False,
        "relative_attention": True, "max_relative_positions": -1, "position_buckets": 256, "norm_rel_ebd": "layer_norm",
        "share_att_key": True, "pos_att_type": ["p2c", "c2p"], "conv_kernel_size": 3, "conv_act": "gelu",
    }  # fmt: skip
    return DebertaV2Config(**sizes)


def batch_of(length: int, options: argparse.Namespace) -> dict[str, torch.Tensor]:
    """Rows of random tokens, of which 0 to twice `padding` are padding, with labels for all others."""
    generator = torch.Generator().manual_seed(length)
    rows = max(1, options.tokens // length)
    ids = torch.randint(1, VOCABULARY, (rows, length), generator=generator)
    ends = length * (1 - 2 * options.padding * torch.rand(rows, 1, generator=generator))
    mask = (torch.arange(length) < ends).long()
    return {"input_ids": ids * mask, "attention_mask": mask, "labels": torch.where(mask == 1, ids, -100)}


def predict(model: Any, batch: dict[str, torch.Tensor]) -> None:
    model.eval()
    with torch.inference_mode():
        model(**batch)


def step(model: Any, batch: dict[str, torch.Tensor]) -> None:
    model.train()
    model(**batch).loss.backward()
    model.zero_grad()


PASSES: dict[str, Callable[[Any, dict[str, torch.Tensor]], None]] = {"predict": predict, "step": step}


def timed(run: Callable[[], None], device: torch.device) -> float:
    """Seconds of a call, with the work that it queued on a device."""
    began = time.perf_counter()
    run()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - began


def table(document: dict[str, Any]) -> list[str]:
    """What is printed."""
    options = document["options"]
    lines = [
        f"{document['machine']}; transformers {document['versions']['transformers']}, load {document['load_average']:.1f}",
        f"{options['layers']} layers of {options['hidden']}, median of {options['rounds']} rounds; ratio above 1: fast is faster",
    ]
    head = ["tokens", "rows", "pass", "transformers", "fast", "ratio", "lowest", "highest"]
    body = [
        [str(row["length"]), str(row["rows"]), way, f"{found['transformers_s']:.3f} s", f"{found['fast_s']:.3f} s"]
        + [f"{found[key]:.2f}" for key in ("ratio", "lowest", "highest")]
        for row in document["lengths"]
        for way, found in ((way, row[way]) for way in PASSES)
    ]
    return [*lines, format_table(head, body), f"never slower than {TARGET}: {'yes' if document['target']['met'] else 'NO'}"]


if __name__ == "__main__":
    main()
