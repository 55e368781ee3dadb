"""What an optimizer's update costs: `python bench/optimizers.py [--hidden 384 --layers 6]`.

Every optimizer makes the same steps on the same batches in an engine of its own, in turn, in one process; ZeRO's whole update is timed
apart from forward and backward pass. Prints medians, and the multiply-adds of Newton-Schulz beside those of the step, which do not depend
on the machine; writes JSON with the machine in words.
"""

import argparse
import statistics
import sys
import tempfile
import time
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from bench.checkpointing.workload import ALONE, machine, recipe_of, versions
from bench.results_file import write_results
from jadeberta.cluster.device import choose_device
from jadeberta.cluster.process_group import join_process_group
from jadeberta.config import Recipe
from jadeberta.data.batches import MicroBatch, StepBatch
from jadeberta.training.console import redirect_library_logs
from jadeberta.training.control import RankFlags
from jadeberta.training.engine import TrainingEngine
from jadeberta.training.optimizers.groups import hidden_matrices
from jadeberta.training.optimizers.orthogonalise import multiplications
from jadeberta.utils.paths import path_option
from jadeberta.utils.text_table import format_table

OPTIMIZERS: tuple[str, ...] = ("adamw", "muon", "stable_adamw", "lion")
VOCABULARY = 8000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hidden", type=int, default=384, help="width of the model, a multiple of 64")
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--rows", type=int, default=16, help="sequences of a step")
    parser.add_argument("--length", type=int, default=128, help="tokens of a sequence")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--output", type=path_option, help="JSON file")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        document = measure(options, Path(directory))
    if options.output is not None:
        write_results(options.output, document)
    print("\n".join(table(document)))


def measure(options: argparse.Namespace, directory: Path) -> dict[str, Any]:
    """Times the steps of every optimizer; the first round, which allocates, does not count."""
    device = choose_device("auto", 0)
    redirect_library_logs(directory, 0)
    join_process_group(ALONE, device, 60)
    timed = {name: Timed(recipe(options, directory, name), device) for name in OPTIMIZERS}
    for number in range(options.rounds + 1):
        for engine in timed.values():
            engine.step(batch(options, number), counts=number > 0)
    model = timed["muon"].engine.model
    weights = dict(model.named_parameters())
    matrices = [tuple(weights[name].shape) for name in hidden_matrices(model)]
    tokens = options.rows * options.length
    rows = [
        {"optimizer": name, "seconds_update": each.updates, "seconds_step": each.steps, "pairs_of_update": ratio(timed, name)}
        for name, each in timed.items()
    ]
    return {
        "machine": machine(),
        "versions": versions(),
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "model": {"hidden_size": options.hidden, "layers": options.layers, "vocab_size": VOCABULARY},
        "tokens_of_a_step": tokens,
        "rounds": options.rounds,
        "threads": torch.get_num_threads(),
        "hidden_matrices": {"count": len(matrices), "parameters": sum(rows * columns for rows, columns in matrices)},
        "multiply_adds": {
            "newton_schulz": sum(map(multiplications, matrices)),
            # Three passes over each weight for each token; attention and head come on top.
            "hidden_matrices_in_forward_and_backward": 3 * tokens * sum(rows * columns for rows, columns in matrices),
        },
        "optimizers": rows,
    }


class Timed:
    """An engine whose steps and ZeRO updates are timed."""

    def __init__(self, of: Recipe, device: torch.device) -> None:
        self.engine, self.updates, self.steps = TrainingEngine(of, ALONE, device), [], []  # type: ignore[var-annotated]
        self._device, self._update = device, self.engine.engine.optimizer.step
        self.engine.engine.optimizer.step = self._timed_update
        self._last = 0.0

    def step(self, batch: StepBatch, counts: bool) -> None:
        """Makes a step and keeps its times where it counts."""
        begun = self._now()
        result = self.engine.step(batch, 1e-4, RankFlags())
        assert result.fault is None, result.fault
        if counts:
            self.steps.append(self._now() - begun)
            self.updates.append(self._last)

    def _timed_update(self, *arguments: Any, **options: Any) -> Any:
        begun = self._now()
        result = self._update(*arguments, **options)
        self._last = self._now() - begun
        return result

    def _now(self) -> float:
        if self._device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()


def ratio(timed: dict[str, Timed], name: str) -> float:
    """Median over the rounds of an optimizer's update in units of AdamW's in the same round."""
    return statistics.median(a / b for a, b in zip(timed[name].updates, timed["adamw"].updates, strict=True))


def recipe(options: argparse.Namespace, directory: Path, optimizer: str) -> Recipe:
    """The large recipe with the model of the options and an optimizer."""
    base = recipe_of(
        "large", directory, hidden_size=options.hidden, num_hidden_layers=options.layers, num_attention_heads=options.hidden // 64,
        intermediate_size=4 * options.hidden, vocab_size=VOCABULARY, max_position_embeddings=options.length,
        hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
    )  # fmt: skip
    sizes = {"global_batch_size": options.rows, "micro_batch_size": options.rows, "precision": "fp32"}
    training = replace(base.training, optimizer=optimizer, **sizes)  # type: ignore[arg-type]
    return replace(base, training=training)


def batch(options: argparse.Namespace, number: int) -> StepBatch:
    """Random tokens, of which every seventh is predicted."""
    ids = torch.randint(5, VOCABULARY, (options.rows, options.length), generator=torch.Generator().manual_seed(number))
    index = torch.arange(0, ids.numel(), 7)
    return StepBatch(number, 0, "", [MicroBatch(ids, index, ids.flatten()[index], None, None)], len(index), ids.numel())


def table(document: dict[str, Any]) -> list[str]:
    """Medians as text."""
    rows = []
    for row in document["optimizers"]:
        update, step = (statistics.median(row[f"seconds_{part}"]) for part in ("update", "step"))
        rows.append(
            [
                row["optimizer"],
                f"{update * 1e3:.1f}",
                f"{row['pairs_of_update']:.2f}",
                f"{step * 1e3:.0f}",
                f"{update / step:.1%}",
            ]
        )
    work = document["multiply_adds"]
    share = work["newton_schulz"] / work["hidden_matrices_in_forward_and_backward"]
    of = f"{document['hidden_matrices']['count']} hidden matrices, {document['tokens_of_a_step']:,} tokens a step"
    return [
        format_table(["optimizer", "update, ms", "of AdamW's", "step, ms", "update / step"], rows),
        f"Newton-Schulz: {share:.2%} of the multiply-adds of the hidden matrices in forward and backward pass ({of})",
    ]


if __name__ == "__main__":
    main()
