"""Rows of a task as token ids, [CLS] first [SEP] second [SEP], truncated to the task's length, and batches of them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from jadeberta.finetune.encoder import Encoder, Pieces
from jadeberta.finetune.jglue_files import JglueRow
from jadeberta.finetune.spans import places_of
from jadeberta.finetune.tasks import Kind, Task

MARK = " [SEP] "
"""Separates title and text in a context of JSQuAD."""
STRIDE = 128
"""Pieces from the start of one window of a context to the start of the next."""
LONGEST_QUESTION = 64
"""Most pieces of a question of JSQuAD; the rest is cut off."""


@dataclass(frozen=True)
class Example:
    """One input of the model; a row whose context is longer than a window has several."""

    row: int
    ids: tuple[np.ndarray, ...]
    """int32 ids of one sequence, or of one for each choice."""
    label: float = 0
    places: tuple[int, int] = (0, 0)
    """Positions of the answer's first and last piece; (0, 0), the position of [CLS], if it is not in this window."""
    offset: int = 0
    """Position of the first piece of the context."""
    spans: np.ndarray | None = None
    """Characters of the pieces of the context, int32 [pieces, 2]; None for other tasks than JSQuAD."""
    second: tuple[int, ...] = ()
    """Position in each sequence from which tokens are of the type 1; none for a model with one type."""
    is_truncated: bool = False
    """Whether pieces of the row were cut off because it is too long; of JSQuAD those of the question, as a context has windows."""

    @property
    def length(self) -> int:
        """Length of the longest sequence."""
        return max(map(len, self.ids))


def texts_of(row: JglueRow, task: Task) -> list[str]:
    """Returns the texts of a row that are segmented separately."""
    if task.kind != "span":
        return list(row.texts)
    question, context = row.texts
    return [question, *context.split(MARK, 1)]


def examples_of(
    rows: Sequence[JglueRow], task: Task, pieces: Mapping[str, Pieces], encoder: Encoder, max_length: int
) -> list[Example]:
    """Builds the examples of all rows.

    Args:
        rows: of the task.
        task: how texts are joined.
        pieces: of every text that `texts_of` returns.
        encoder: special token ids.
        max_length: of a sequence; the longer of two texts is truncated, a context is read in windows.
    """
    if task.kind == "span":
        return [example for n, row in enumerate(rows) for example in _windows(n, row, task, pieces, encoder, max_length)]

    frame = encoder.frame
    before, between, after = (np.array(ids, np.int32) for ids in (frame.before, frame.between, frame.after))

    def is_too_long(row: JglueRow) -> bool:
        first, *others = (len(pieces[text].ids) for text in row.texts)
        return first + (max(others) + frame.length if others else len(before) + len(after)) > max_length

    def example(number: int, row: JglueRow) -> Example:
        first, *others = row.texts
        ids: tuple[np.ndarray, ...]
        second: tuple[int, ...]
        if not others:
            room = max_length - len(before) - len(after)
            ids, second = (np.concatenate([before, pieces[first].ids[:room], after]),), ()
        else:
            pairs = [cut(pieces[first].ids, pieces[other].ids, max_length - frame.length) for other in others]
            ids = tuple(np.concatenate([before, a, between, b, after]) for a, b in pairs)
            second = tuple(len(before) + len(a) + len(between) for a, _ in pairs) if frame.second_type else ()
        return Example(number, ids, row.label or 0, second=second, is_truncated=is_too_long(row))

    return [example(n, row) for n, row in enumerate(rows)]


def cut(first: np.ndarray, second: np.ndarray, room: int) -> tuple[np.ndarray, np.ndarray]:
    """Truncates two id arrays to `room` ids together: first the longer one, then both to one half, as Hugging Face's `longest_first`."""
    if len(first) + len(second) <= room:
        return first, second
    shorter = min(len(first), len(second), room // 2)
    longer = room - shorter
    return (first[:longer], second[:shorter]) if len(first) > len(second) else (first[:shorter], second[:longer])


def _windows(
    number: int, row: JglueRow, task: Task, pieces: Mapping[str, Pieces], encoder: Encoder, max_length: int
) -> list[Example]:
    """The examples of a question of JSQuAD, one for each window of its context."""
    question, *parts = texts_of(row, task)
    frame, sep = encoder.frame, np.array([encoder.sep], np.int32)
    before, between, after = (np.array(one, np.int32) for one in (frame.before, frame.between, frame.after))
    ids, spans = pieces[parts[0]].ids, pieces[parts[0]].spans
    if len(parts) == 2:
        at = len(parts[0]) + len(MARK)
        ids = np.concatenate([ids, sep, pieces[parts[1]].ids])
        spans = np.concatenate([spans, np.array([[len(parts[0]) + 1, at - 1]], np.int32), pieces[parts[1]].spans + at])
    # Training needs one target; scoring compares with all answers.
    text, start = row.answers[0] if row.answers else ("", 0)
    answer = places_of(spans, start, start + len(text))
    # A long question must leave room for the context.
    most = min(LONGEST_QUESTION, max_length // 2)
    head = np.concatenate([before, pieces[question].ids[:most], between])
    room = max_length - len(head) - len(after)
    second = (len(head),) if frame.second_type else ()
    examples = []
    # With a stride above the length of a window, pieces between two windows would be in neither.
    for begin in range(0, max(1, len(ids)), min(STRIDE, room)):
        end = min(begin + room, len(ids))
        inside = answer is not None and begin <= answer[0] and answer[1] < end
        places = (len(head) + answer[0] - begin, len(head) + answer[1] - begin) if answer is not None and inside else (0, 0)
        sequence = np.concatenate([head, ids[begin:end], after])
        too_long = len(pieces[question].ids) > most
        examples.append(Example(number, (sequence,), 0, places, len(head), spans[begin:end], second, too_long))
        # Any further window would lie within this one.
        if end == len(ids):
            break
    return examples


def collator(kind: Kind, pad: int) -> Callable[[Sequence[Example]], dict[str, torch.Tensor]]:
    """Returns a function that makes a batch for Hugging Face's head: ids and mask [B, S] (choices: [B, C, S]), and the labels."""

    def collate(examples: Sequence[Example]) -> dict[str, torch.Tensor]:
        longest = max(example.length for example in examples)
        ids = torch.full((len(examples), len(examples[0].ids), longest), pad, dtype=torch.int64)
        mask, types = torch.zeros_like(ids), torch.zeros_like(ids)
        for n, example in enumerate(examples):
            for choice, sequence in enumerate(example.ids):
                ids[n, choice, : len(sequence)] = torch.from_numpy(sequence)
                mask[n, choice, : len(sequence)] = 1
                if example.second:
                    types[n, choice, example.second[choice] : len(sequence)] = 1
        # Of Hugging Face's heads only the one for choices takes three dimensions.
        if kind != "choice":
            ids, mask, types = ids[:, 0], mask[:, 0], types[:, 0]
        batch = {"input_ids": ids, "attention_mask": mask}
        if examples[0].second:
            batch["token_type_ids"] = types
        if kind == "span":
            first, last = zip(*(example.places for example in examples), strict=True)
            return batch | {"start_positions": torch.tensor(first), "end_positions": torch.tensor(last)}
        dtype = torch.float32 if kind == "regression" else torch.int64
        return batch | {"labels": torch.tensor([example.label for example in examples], dtype=dtype)}

    return collate
