"""Training and prediction on one device: AdamW, warm-up and a schedule of transformers, with a batch order that the seed determines.

Knows no files and no metrics. Repeating a trial on the same device gives the same weights, on CPUs bit for bit.
"""

import math
import time
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch.nn.utils import clip_grad_norm_
from transformers import PreTrainedModel, get_scheduler

from jadeberta.finetune.features import Example
from jadeberta.finetune.grid import FinetuneConfig, Trial
from jadeberta.utils.durations import format_duration
from jadeberta.utils.progress_line import ConsoleHandler

Collate = Callable[[Sequence[Example]], dict[str, torch.Tensor]]
LOG_S = 30.0
"""Seconds between two progress lines in a log."""


class Diverged(Exception):
    """A loss or a logit was not finite; the trial has no scores."""


def steps_of(rows: int, batch_size: int, epochs: int) -> int:
    """Returns the optimizer steps of a training; the last batch of an epoch may be smaller."""
    return math.ceil(rows / batch_size) * epochs


def epoch_order(rows: int, seed: int, epoch: int) -> list[int]:
    """Returns the order of the rows in an epoch, a function of its arguments alone."""
    # Not the global generator: dropout draws from it, so the order would depend on the model.
    generator = torch.Generator().manual_seed((seed << 16) + epoch)
    positions: list[int] = torch.randperm(rows, generator=generator).tolist()
    return positions


def train(
    model: PreTrainedModel,
    examples: Sequence[Example],
    collate: Collate,
    trial: Trial,
    config: FinetuneConfig,
    micro_batch_size: int,
    device: torch.device,
) -> float:
    """Trains a model in place and returns the mean loss of its last epoch.

    Args:
        model: Hugging Face's head, fp32.
        examples: all that is trained on.
        collate: makes a batch of them.
        trial: rate, epochs and seed; the seed sets order and dropout.
        config: the rest.
        micro_batch_size: examples at once; a batch of more is accumulated with the same weight for each example.
        device: to train on.

    Raises:
        Diverged: a loss was not finite.
    """
    model.to(device)  # type: ignore[arg-type] # transformers' wrapper hides the method's own type
    model.train()
    total = steps_of(len(examples), config.batch_size, trial.epochs)
    optimizer = torch.optim.AdamW(model.parameters(), lr=trial.lr, weight_decay=config.weight_decay)
    schedule = get_scheduler(config.schedule, optimizer, math.ceil(total * config.warmup_ratio), total)
    # Set again, so that dropout does not depend on what was drawn since the model was built.
    torch.manual_seed(trial.seed)
    progress, mean = TrialProgress(trial.name, total), 0.0
    try:
        for epoch in range(trial.epochs):
            losses = torch.zeros((), device=device)
            places = epoch_order(len(examples), trial.seed, epoch)
            for start in range(0, len(places), config.batch_size):
                batch = [examples[n] for n in places[start : start + config.batch_size]]
                loss = torch.zeros((), device=device)
                for first in range(0, len(batch), micro_batch_size):
                    part = batch[first : first + micro_batch_size]
                    given = {name: tensor.to(device) for name, tensor in collate(part).items()}
                    with torch.autocast(device.type, torch.bfloat16, enabled=config.precision == "bf16"):
                        # The loss is a mean over the part; shares of it add up to the mean over the batch.
                        share = model(**given).loss * (len(part) / len(batch))
                    share.backward()
                    loss += share.detach()
                clip_grad_norm_(model.parameters(), config.max_grad_norm)
                optimizer.step()
                schedule.step()
                optimizer.zero_grad(set_to_none=True)
                # Summed on the device, because reading a loss waits for it.
                losses += loss * len(batch)
                progress.step(loss)
            mean = (losses / len(examples)).item()
            # A loss that is not finite stays in the sum, so one check an epoch finds it.
            if not math.isfinite(mean):
                raise Diverged
    finally:
        progress.end()
    return mean


def predict_logits(
    model: PreTrainedModel, examples: Sequence[Example], collate: Collate, batch_size: int, precision: str, device: torch.device
) -> list[tuple[np.ndarray, ...]]:
    """Returns the fp32 logits of each example: one array, or two (starts and ends by position) for JSQuAD.

    Args:
        model: Hugging Face's head, moved to the device.
        examples: to predict.
        collate: makes a batch of them.
        batch_size: examples at once.
        precision: fp32 or bf16 (autocast).
        device: to run on.

    Raises:
        Diverged: a logit is not finite.
    """
    model.to(device)  # type: ignore[arg-type]
    model.eval()
    answers: list[tuple[np.ndarray, ...]] = [()] * len(examples)
    # Sorted by length, the longest first: there is less padding, and a lack of memory shows at once.
    places = sorted(range(len(examples)), key=lambda n: -examples[n].length)
    for start in range(0, len(places), batch_size):
        chunk = places[start : start + batch_size]
        batch = collate([examples[n] for n in chunk])
        given = {name: batch[name].to(device) for name in ("input_ids", "attention_mask", "token_type_ids") if name in batch}
        with torch.inference_mode(), torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
            found = model(**given)
        outputs = [found.logits] if "logits" in found else [found.start_logits, found.end_logits]
        # NumPy has no bf16.
        arrays = [output.float().cpu().numpy() for output in outputs]
        if not all(np.isfinite(array).all() for array in arrays):
            raise Diverged
        for n, place in enumerate(chunk):
            answers[place] = tuple(array[n] for array in arrays)
    return answers


class TrialProgress:
    """Shows steps, loss, rate and time left on the progress line."""

    def __init__(self, name: str, total: int) -> None:
        self._name, self._total = name, total
        self._console = ConsoleHandler(log_seconds=LOG_S)
        self._done, self._began = 0, time.monotonic()
        self._shown = self._began

    def step(self, loss: torch.Tensor) -> None:
        """Counts a step. The loss is read only when it is shown, because reading it waits for the device."""
        self._done += 1
        now = time.monotonic()
        if now - self._shown < (0.5 if self._console.is_live else LOG_S):
            return
        self._shown = now
        rate = self._done / (now - self._began)
        left = format_duration((self._total - self._done) / rate)
        line = f"{self._name}: step {self._done}/{self._total}  loss {loss.item():.4f}  {rate:.2f} steps/s  {left} left"
        self._console.show(line)

    def end(self) -> None:
        """Removes the progress line."""
        self._console.close_line()
