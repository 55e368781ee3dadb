"""Masked accuracy on held-out rows in the middle of training: the ranks share the rows, and a request to end stops it early."""

from collections.abc import Callable
from dataclasses import astuple

import numpy as np
import torch
import torch.distributed as dist

from jadeberta.data.batches import make_micro_batch
from jadeberta.data.masking import Masker
from jadeberta.evaluation.mlm import EVALUATION_SEED
from jadeberta.shards import ShardReader
from jadeberta.shards import open as open_shards
from jadeberta.training.control import RankFlags
from jadeberta.training.ema import show
from jadeberta.training.engine import TrainingEngine
from jadeberta.training.objective import replaced_figures
from jadeberta.training.run_context import RunContext

LocalFlags = Callable[[], RankFlags]
"""Gives this rank's flags now."""


class Validation:
    """Evaluates the model of a run on the same rows with the same masks each time."""

    def __init__(self, context: RunContext, engine: TrainingEngine) -> None:
        """Opens the held-out split of the run's shards, in every row length that the training reads.

        Raises:
            ShardError: it is missing or damaged.
        """
        recipe = context.recipe
        self.recipe, self.engine = recipe, engine
        self._is_rtd = recipe.training.objective == "rtd"
        # Of the phase that trains; the masks are the run's last ones throughout, so that the figures of its phases can be compared.
        self._readers = {
            length: open_shards(context.shards.directory, "valid", recipe.data.damaged, sequence_length=length)
            for length in context.data.readers
        }
        probability = context.data.phases[-1].mask_bounds[1]
        index = context.shards.index
        self._pad = index.special_tokens.pad
        self._masker = Masker(EVALUATION_SEED, index.vocab_size, probability, special=index.special_tokens)

    @property
    def shards(self) -> ShardReader:
        """Held-out rows of the length that the model trains on now."""
        length = self.engine.phase.sequence_length
        return next(iter(self._readers.values())) if length is None else self._readers[length]

    def __call__(self, local_flags: LocalFlags) -> tuple[dict[str, dict[str, float]], RankFlags]:
        """Evaluates every corpus; every rank calls it.

        The weights and every random number of the training stay as they are.

        Returns:
            Accuracy, loss (nats a masked token) and masked_tokens of each corpus, and under replaced-token detection the discriminator's
            figures (`objective.ReplacedFigures`); empty where a request ended it early. The flags that
            ended it, summed over the ranks; all 0 where none did.
        """
        if self.recipe.evaluation.weights == "trained":
            return self._every_corpus(local_flags)
        show(self.engine.engine, "ema")
        answer = self._every_corpus(local_flags)  # an error here ends the run: there is nothing to put back then
        show(self.engine.engine, "master")
        return answer

    def _every_corpus(self, local_flags: LocalFlags) -> tuple[dict[str, dict[str, float]], RankFlags]:
        self.engine.engine.eval()
        try:
            figures = {}
            for name, rows in self.shards.corpora.items():
                limit = self.recipe.evaluation.sequences
                sums, flags = self._corpus(rows[:limit] if limit else rows, local_flags)
                if flags.requeue or flags.stop:
                    return {}, flags
                if sums[2]:
                    accuracy, loss = sums[0] / sums[2], sums[1] / sums[2]
                    figures[name] = {"accuracy": accuracy, "loss": loss, "masked_tokens": sums[2]}
                    if self._is_rtd:
                        figures[name] |= vars(replaced_figures(sums[4:], int(sums[3])))
            return figures, RankFlags()
        finally:
            self.engine.engine.train()

    def _corpus(self, rows: range, local_flags: LocalFlags) -> tuple[list[float], RankFlags]:
        """Evaluates the rows of a corpus: sums over all ranks, as `_forward` gives them."""
        process, size = self.engine.process, self.engine.phase.micro_batch_size
        count = 8 if self._is_rtd else 3
        sums = torch.zeros(count, dtype=torch.float64)
        # Every rank makes as many forward passes as the others, also with no rows left: ZeRO 3 gathers weights in each.
        for start in range(0, len(rows), size * process.world_size):
            first = start + process.rank * size
            mine = np.asarray(rows[first : first + size], dtype=np.int64)
            flags = astuple(local_flags())
            part = torch.tensor([*self._forward(mine), *flags], dtype=torch.float64, device=self.engine.device)
            # Figures and flags together, after each batch: all ranks end early at the same one.
            dist.all_reduce(part)
            sums += part[:count].cpu()
            summed = RankFlags(*(int(n) for n in part[count:].tolist()))
            if summed.requeue or summed.stop:
                return [0.0] * count, summed
        return sums.tolist(), RankFlags()

    def _forward(self, rows: np.ndarray) -> list[float]:
        """Correct predictions, summed loss and masked tokens of this rank's rows; of padding where it has no rows.

        Under replaced-token detection also the tokens and the discriminator's sums, see `objective.SUMS`.
        """
        if len(rows):
            tokens, documents = self.shards.rows(rows)
            self.shards.take_excluded()  # an excluded row has no masked tokens: the count shows it
        else:
            documents = np.zeros((1, self.shards.sequence_length), np.uint16)
            tokens = np.full(documents.shape, self._pad, self.shards.index.token_dtype)
        keys = rows if len(rows) else np.zeros(1, np.int64)
        ids, labels = self._masker(tokens, np.zeros_like(keys), keys)
        by_document = self.recipe.data.packing == "documents"
        with torch.no_grad():
            batch = make_micro_batch(ids, labels, tokens, documents if by_document else None, self._pad)
            if self._is_rtd:
                draws = self._masker.draws(ids.shape, np.zeros_like(keys), keys).ravel()[batch.masked_index.numpy()]
                batch.draws = torch.from_numpy(draws)
            loss, correct, *others = (float(part) for part in self.engine.forward(batch))
        figures = [correct, loss, float(np.count_nonzero(labels >= 0))]
        return [*figures, float(np.count_nonzero(tokens != self._pad)), *others] if self._is_rtd else figures
