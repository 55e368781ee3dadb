"""Baselines that need no pre-trained model: the commonest label, the overlap of characters, a bag of characters.

They need seconds on a CPU, and say what a score is worth: a model that does not beat them has learnt nothing of the language.
"""

import math
import zlib
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from jadeberta.finetune.jglue_files import JglueRow
from jadeberta.finetune.scoring import is_labelled, score
from jadeberta.finetune.tasks import Task
from preprocess.text import normalise

BUCKETS = 1 << 16
EPOCHS, BATCH, RATE = 5, 128, 0.02
FEWEST_STEPS = 80
LONGEST_GRAM = 3
MOST_ROWS = 20_000
"""Training rows of the bag of characters, the first ones of the file; MARC-ja's 187,528 reviews would take minutes."""


def trivial_scores(task: Task, rows: dict[str, Sequence[JglueRow]]) -> dict[str, dict[str, dict[str, float]]]:
    """Returns scores by baseline and split; of splits without labels none.

    Args:
        task: of the rows.
        rows: by split; `train` is what is learnt from.
    """
    splits = {name: own for name, own in rows.items() if name != "train" and is_labelled(task, own)}
    found: dict[str, dict[str, dict[str, float]]] = {}
    for name, predict in (("majority", _majority), ("character overlap", _overlap), ("bag of characters", _bag)):
        answers = predict(task, rows["train"], splits)
        if answers is not None:
            found[name] = {split: score(task, splits[split], own) for split, own in answers.items()}
    return found


def grams(text: str) -> set[str]:
    """Runs of 1 to 3 characters of a normalised text without spaces."""
    plain = normalise(text).replace(" ", "")
    return {plain[n : n + size] for size in range(1, LONGEST_GRAM + 1) for n in range(len(plain) - size + 1)}


def dice(first: set[str], second: set[str]) -> float:
    """Dice's coefficient: twice the shared runs over all."""
    return 2 * len(first & second) / max(1, len(first) + len(second))


def _majority(task: Task, train: Sequence[JglueRow], splits: dict[str, Sequence[JglueRow]]) -> dict[str, list[Any]] | None:
    if task.kind in ("regression", "span"):
        return None  # a constant correlates with nothing
    commonest = Counter(row.label for row in train).most_common(1)[0][0]
    return {name: [commonest] * len(rows) for name, rows in splits.items()}


def _overlap(task: Task, train: Sequence[JglueRow], splits: dict[str, Sequence[JglueRow]]) -> dict[str, list[Any]] | None:
    if task.kind == "regression":
        return {name: [dice(*map(grams, row.texts)) for row in rows] for name, rows in splits.items()}
    if task.kind == "choice":
        return {
            name: [int(np.argmax([dice(grams(row.texts[0]), grams(choice)) for choice in row.texts[1:]])) for row in rows]
            for name, rows in splits.items()
        }
    return None


def _bag(task: Task, train: Sequence[JglueRow], splits: dict[str, Sequence[JglueRow]]) -> dict[str, list[Any]] | None:
    """A linear model of hashed runs of characters: in the first text, in the second, in both."""
    if task.kind == "span":
        return None
    outputs = len(task.labels) or 1
    bag = torch.nn.EmbeddingBag(BUCKETS, outputs, mode="sum")
    torch.nn.init.zeros_(bag.weight)
    bias = torch.zeros(outputs, requires_grad=True)
    optimizer = torch.optim.Adam([bag.weight, bias], lr=RATE)
    train = train[:MOST_ROWS]
    shift = float(np.mean([row.label for row in train])) if task.kind == "regression" else 0.0

    def logits(rows: Sequence[list[np.ndarray]]) -> torch.Tensor:
        bags = [own for row in rows for own in row]
        offsets = torch.from_numpy(np.cumsum([0, *map(len, bags[:-1])]))
        weights = torch.from_numpy(np.concatenate([np.full(len(own), len(own) ** -0.5, np.float32) for own in bags]))
        found: torch.Tensor = bag(torch.from_numpy(np.concatenate(bags)), offsets, per_sample_weights=weights) + bias
        return found.reshape(len(rows), -1)

    read = [[_features(own) for own in _sequences(task, row)] for row in train]
    generator = torch.Generator().manual_seed(0)
    for _ in range(max(EPOCHS, math.ceil(FEWEST_STEPS * BATCH / len(train)))):
        for places in torch.randperm(len(train), generator=generator).split(BATCH):
            labels = torch.tensor([float(train[n].label or 0) for n in places])
            found = logits([read[n] for n in places])
            if task.kind == "regression":
                loss = torch.nn.functional.mse_loss(found[:, 0], labels - shift)
            else:
                loss = torch.nn.functional.cross_entropy(found, labels.long())
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
    answers: dict[str, list[Any]] = {}
    for name, rows in splits.items():
        with torch.inference_mode():
            asked = [[_features(own) for own in _sequences(task, row)] for row in rows]
            found = torch.cat([logits(asked[start : start + BATCH]) for start in range(0, len(asked), BATCH)])
        answers[name] = (found[:, 0] + shift).tolist() if task.kind == "regression" else found.argmax(1).tolist()
    return answers


def _sequences(task: Task, row: JglueRow) -> list[tuple[str, ...]]:
    return [(row.texts[0], choice) for choice in row.texts[1:]] if task.kind == "choice" else [row.texts]


def _features(texts: tuple[str, ...]) -> np.ndarray:
    """Buckets of the runs of each text, and of those that both have, int64."""
    found = [grams(text) for text in texts]
    named = [f"{place} {gram}" for place, own in enumerate(found) for gram in own]
    if len(found) == 2:
        named += [f"both {gram}" for gram in found[0] & found[1]]
        # How much is shared, in steps of a tenth: a sum of weights of runs cannot say it for runs that were not seen.
        named.append(f"shared {int(10 * dice(*found))}")
    # Not Python's own hash, which differs between processes; sorted, because sets have no order of their own.
    return np.array([zlib.crc32(name.encode("utf-8", "surrogatepass")) % BUCKETS for name in sorted(named)] or [0], np.int64)
