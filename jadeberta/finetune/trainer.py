"""Trains a head and asks it: AdamW, warm-up and a schedule of transformers, over batches whose order follows from the seed.

Knows no files and no metrics. On one device; the same point gives the same weights there again, on CPUs to the bit.
"""

import math
import sys
import time
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch.nn.utils import clip_grad_norm_
from transformers import PreTrainedModel, get_scheduler

from jadeberta.finetune.features import Example
from jadeberta.finetune.grid import Conduct, Point
from jadeberta.utils.durations import format_duration as duration

Collate = Callable[[Sequence[Example]], dict[str, torch.Tensor]]
LINE_S = 30.0
"""A log gets a line so often."""


class Diverged(Exception):
    """A loss or a logit was not finite; the point has no scores."""


def steps_of(rows: int, batch_size: int, epochs: int) -> int:
    """Optimizer steps of a training; the last batch of an epoch may be smaller."""
    return math.ceil(rows / batch_size) * epochs


def order(rows: int, seed: int, epoch: int) -> list[int]:
    """The order of the rows in an epoch, a function of its arguments alone."""
    generator = torch.Generator().manual_seed((seed << 16) + epoch)
    places: list[int] = torch.randperm(rows, generator=generator).tolist()
    return places


def train(
    model: PreTrainedModel,
    examples: Sequence[Example],
    collate: Collate,
    point: Point,
    conduct: Conduct,
    micro_batch_size: int,
    device: torch.device,
) -> float:
    """Trains a model in place and returns the mean loss of its last epoch.

    Args:
        model: Hugging Face's head, fp32.
        examples: all that is trained on.
        collate: makes a batch of them.
        point: rate, epochs and seed; the seed sets order and dropout.
        conduct: the rest.
        micro_batch_size: examples at once; a batch of more is accumulated with the same weight for each example.
        device: to train on.

    Raises:
        Diverged: a loss was not finite.
    """
    model.to(device)  # type: ignore[arg-type] # transformers' wrapper hides the method's own type
    model.train()
    total = steps_of(len(examples), conduct.batch_size, point.epochs)
    optimizer = torch.optim.AdamW(model.parameters(), lr=point.lr, weight_decay=conduct.weight_decay)
    schedule = get_scheduler(conduct.schedule, optimizer, math.ceil(total * conduct.warmup_ratio), total)
    torch.manual_seed(point.seed)
    progress, mean = Progress(point.name, total), 0.0
    try:
        for epoch in range(point.epochs):
            losses = torch.zeros((), device=device)
            places = order(len(examples), point.seed, epoch)
            for start in range(0, len(places), conduct.batch_size):
                batch = [examples[n] for n in places[start : start + conduct.batch_size]]
                loss = torch.zeros((), device=device)
                for first in range(0, len(batch), micro_batch_size):
                    part = batch[first : first + micro_batch_size]
                    given = {name: tensor.to(device) for name, tensor in collate(part).items()}
                    with torch.autocast(device.type, torch.bfloat16, enabled=conduct.precision == "bf16"):
                        share = model(**given).loss * (len(part) / len(batch))
                    share.backward()
                    loss += share.detach()
                clip_grad_norm_(model.parameters(), conduct.max_grad_norm)
                optimizer.step()
                schedule.step()
                optimizer.zero_grad(set_to_none=True)
                losses += loss * len(batch)
                progress.step(loss)
            mean = (losses / len(examples)).item()
            if not math.isfinite(mean):
                raise Diverged
    finally:
        progress.end()
    return mean


def ask(
    model: PreTrainedModel, examples: Sequence[Example], collate: Collate, batch_size: int, precision: str, device: torch.device
) -> list[tuple[np.ndarray, ...]]:
    """What the model answers, for each example the logits fp32: one array, or those of starts and ends by position.

    Raises Diverged where a logit is not finite.
    """
    model.to(device)  # type: ignore[arg-type]
    model.eval()
    answers: list[tuple[np.ndarray, ...]] = [()] * len(examples)
    # Alike in length together, the longest first: less padding, and memory that does not suffice is found at once.
    places = sorted(range(len(examples)), key=lambda n: -examples[n].length)
    for start in range(0, len(places), batch_size):
        chunk = places[start : start + batch_size]
        batch = collate([examples[n] for n in chunk])
        given = {name: batch[name].to(device) for name in ("input_ids", "attention_mask")}
        with torch.inference_mode(), torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
            found = model(**given)
        outputs = [found.logits] if "logits" in found else [found.start_logits, found.end_logits]
        arrays = [output.float().cpu().numpy() for output in outputs]
        if not all(np.isfinite(array).all() for array in arrays):
            raise Diverged
        for n, place in enumerate(chunk):
            answers[place] = tuple(array[n] for array in arrays)
    return answers


class Progress:
    """Steps, loss, rate and time left: a live line on a terminal, a line now and then in a log."""

    def __init__(self, name: str, total: int) -> None:
        self._name, self._total = name, total
        self._live = sys.stdout.isatty()
        self._done, self._began = 0, time.monotonic()
        self._said = self._began

    def step(self, loss: torch.Tensor) -> None:
        """One step is done. The loss is looked at only where it is said: to look at it waits for the device."""
        self._done += 1
        now = time.monotonic()
        if now - self._said < (0.5 if self._live else LINE_S):
            return
        self._said = now
        rate = self._done / (now - self._began)
        left = duration((self._total - self._done) / rate)
        line = f"{self._name}: step {self._done}/{self._total}  loss {loss.item():.4f}  {rate:.2f} steps/s  {left} left"
        print(f"\r\033[K{line}" if self._live else line, end="" if self._live else "\n", flush=True)

    def end(self) -> None:
        """Clears the live line."""
        if self._live:
            print("\r\033[K", end="", flush=True)
