"""What a run writes down and says: metrics, ledger and terminal, of rank 0; on other ranks nothing."""

import time
from typing import Any

from jadeberta.config import Recipe
from jadeberta.data.batches import StepBatch
from jadeberta.training.console import Progress
from jadeberta.training.engine import StepResult
from jadeberta.training.ledger import Ledger
from jadeberta.training.metrics import MetricsWriter, training_flops_per_token
from jadeberta.training.run_state import RunState
from jadeberta.utils.hardware import peak_flops


class RunLog:
    """The books of one life of a run."""

    def __init__(
        self, recipe: Recipe, ledger: Ledger | None, progress: Progress, life: int, device_name: str, world_size: int
    ) -> None:
        """`ledger` is None on all ranks but 0; `device_name` tells the peak behind MFU."""
        self.recipe, self.ledger, self.progress, self.life = recipe, ledger, progress, life
        self.metrics: MetricsWriter | None = None
        training = recipe.training
        self._flops_per_token = training_flops_per_token(
            recipe.model, recipe.model.max_position_embeddings, training.micro_batch_size, training.mask_probability
        )
        peak = peak_flops(device_name)
        self._peak = peak * world_size if peak else None

    def note(self, event: str, **fields: Any) -> None:
        """One event of the ledger."""
        if self.ledger is not None:
            self.ledger.write(event, **fields)

    def step(
        self, batch: StepBatch, result: StepResult, state: RunState, lr: float, seconds: float, waited: float, saving: float
    ) -> None:
        """A step is done; `seconds` is all of it, `waited` what it waited for data, `saving` what a save took just before it."""
        rate = result.tokens / seconds
        self.progress.step(state.step, result.loss, result.masked_accuracy, lr, rate)
        if self.metrics is None:
            return
        spent = result.communication
        self.metrics.write(
            {
                "step": state.step,
                "loss": result.loss,
                "masked_accuracy": result.masked_accuracy,
                "masked_tokens": result.masked_tokens,
                "lr": lr,
                "grad_norm": result.grad_norm,
                "skipped": result.fault is not None,
                "tokens": state.tokens,
                "set_aside": result.set_aside,
                "tokens_per_second": rate,
                "positions_per_second": result.positions / seconds,
                "mfu": rate * self._flops_per_token / self._peak if self._peak else None,
                "mfu_with_padding": result.positions / seconds * self._flops_per_token / self._peak if self._peak else None,
                "data_wait_s": waited,
                "save_wait_s": saving,
                "step_s": seconds,
                **(vars(spent) if spent is not None else {}),
                "epoch": batch.epoch,
                "batch_hash": batch.batch_hash,
                "life": self.life,
                "time": time.time(),
            }
        )

    def skipped(self, state: RunState, batch: StepBatch, result: StepResult, samples: dict[str, Any]) -> None:
        """A step was left out."""
        numbers = {"loss": result.loss, "grad_norm": result.grad_norm, "batch_hash": batch.batch_hash}
        self.note("skip", step=state.step, reason=result.fault, **numbers, **samples)
        self.progress.say(f"step {state.step}: SKIPPED, {result.fault}")
