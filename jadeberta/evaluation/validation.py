"""Masked accuracy on held-out rows in the middle of training: all ranks share the rows, and an ask from outside ends it early."""

from collections.abc import Callable
from dataclasses import astuple
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

from jadeberta.config import Recipe
from jadeberta.data.batches import make_micro_batch
from jadeberta.data.masking import Masker
from jadeberta.evaluation.mlm import EVALUATION_SEED
from jadeberta.shards import ShardReader
from jadeberta.training.control import Asks
from jadeberta.training.ema import show
from jadeberta.training.engine import TrainingEngine


class Validation:
    """Asks the model of a run the same questions each time."""

    def __init__(self, recipe: Recipe, engine: TrainingEngine, shards: ShardReader) -> None:
        """`shards` is the held-out split."""
        self.recipe, self.engine, self.shards = recipe, engine, shards
        self._masker = Masker(EVALUATION_SEED, recipe.model.vocab_size, recipe.training.mask_probability)

    def __call__(self, poll: Callable[[], Asks]) -> tuple[dict[str, dict[str, float]], Asks]:
        """Accuracy and loss by corpus, and what the ranks were asked meanwhile; without figures where that ended it early.

        Every rank calls it. The weights and every random number of the training are as before.
        """
        if self.recipe.evaluation.weights == "trained":
            return self._every_corpus(poll)
        show(self.engine.engine, "ema")
        answer = self._every_corpus(poll)  # what it raises ends the run: nothing is to be put back then
        show(self.engine.engine, "master")
        return answer

    def _every_corpus(self, poll: Callable[[], Asks]) -> tuple[dict[str, dict[str, float]], Asks]:
        self.engine.engine.eval()
        try:
            figures = {}
            for name, rows in self.shards.corpora.items():
                limit = self.recipe.evaluation.sequences
                sums, asks = self._corpus(rows[:limit] if limit else rows, poll)
                if asks.requeue or asks.stop:
                    return {}, asks
                if sums[2]:
                    accuracy, loss = sums[0] / sums[2], sums[1] / sums[2]
                    figures[name] = {"accuracy": accuracy, "loss": loss, "masked_tokens": sums[2]}
            return figures, Asks()
        finally:
            self.engine.engine.train()

    def _corpus(self, rows: range, poll: Callable[[], Asks]) -> tuple[list[float], Asks]:
        """Sums over some rows of [correct, loss, masked tokens]; every rank makes as many forward passes, as ZeRO 3 wants it."""
        process, size = self.engine.process, self.recipe.training.micro_batch_size
        sums = torch.zeros(3, dtype=torch.float64)
        for start in range(0, len(rows), size * process.world_size):
            first = start + process.rank * size
            mine = np.asarray(rows[first : first + size], dtype=np.int64)
            part = torch.tensor([*self._ask(mine), *astuple(poll())], dtype=torch.float64, device=self.engine.device)
            dist.all_reduce(part)
            sums += part[:3].cpu()
            asks = Asks(*(int(n) for n in part[3:].tolist()))
            if asks.requeue or asks.stop:
                return [0.0, 0.0, 0.0], asks
        return sums.tolist(), Asks()

    def _ask(self, rows: np.ndarray) -> tuple[float, float, float]:
        """Correct answers, summed loss and questions of this rank's rows; a rank without rows asks about padding."""
        if len(rows):
            tokens, documents = self.shards.rows(rows)
            self.shards.take_excluded()  # a damaged row asks nothing: it shows in masked_tokens
        else:
            tokens = documents = np.zeros((1, self.shards.sequence_length), np.uint16)
        places = rows if len(rows) else np.zeros(1, np.int64)
        ids, labels = self._masker(tokens, np.zeros_like(places), places)
        by_document = self.recipe.data.packing == "documents"
        with torch.no_grad():
            loss, correct = self.engine.forward(make_micro_batch(ids, labels, tokens, documents if by_document else None))
        return float(correct), float(loss), float(np.count_nonzero(labels >= 0))


def summary(figures: dict[str, dict[str, float]]) -> dict[str, Any]:
    """The figures over all corpora."""
    masked = sum(f["masked_tokens"] for f in figures.values())
    return {key: sum(f[key] * f["masked_tokens"] for f in figures.values()) / max(1, masked) for key in ("accuracy", "loss")}
