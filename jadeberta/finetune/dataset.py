"""The data of a fine-tuning test: the rows of each split, and what the model reads of them."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jadeberta.errors import InputError
from jadeberta.finetune.encoder import Encoder
from jadeberta.finetune.features import Example, examples_of, texts_of
from jadeberta.finetune.grid import Conduct, keep_out
from jadeberta.finetune.jglue_files import Row, read_rows
from jadeberta.finetune.scoring import ceiling
from jadeberta.finetune.tasks import Task


@dataclass(frozen=True)
class Split:
    """Rows with what the model reads of them."""

    rows: Sequence[Row]
    examples: Sequence[Example]


@dataclass(frozen=True)
class Data:
    """Everything that is read from files."""

    splits: dict[str, Split]
    """train, valid, and fold and test where there are such."""
    rejected: dict[str, dict[str, int]]
    """Texts that the segmenter gave no words for, by split and reason."""
    ceiling: dict[str, dict[str, float]]
    """JSQuAD: scores that the cutting into pieces leaves possible."""

    def to_train_on(self, task: Task) -> Sequence[Example]:
        """The examples of train; of JSQuAD without rows whose answer lies whole in no window.

        The other windows of a row are learnt as ones that point at [CLS], as in SQuAD's scripts.
        """
        examples = self.splits["train"].examples
        if task.kind != "span":
            return examples
        answered = {example.row for example in examples if example.places != (0, 0)}
        return [example for example in examples if example.row in answered]

    def counts(self) -> dict[str, Any]:
        """For the record."""
        rows = {name: len(split.rows) for name, split in self.splits.items()}
        return {"rows": rows, "rejected_texts": self.rejected, "ceiling": self.ceiling}

    def __str__(self) -> str:
        """The same in one line."""
        rows = ", ".join(f"{name} {len(split.rows):,}" for name, split in self.splits.items())
        lost = "".join(f"; {sum(r.values())} texts of {name} without words ({', '.join(r)})" for name, r in self.rejected.items())
        best = f"; pieces allow EM {self.ceiling['valid']['exact_match']:.4f} on valid" if "valid" in self.ceiling else ""
        return f"rows: {rows}{lost}{best}"


def read_data(task: Task, files: dict[str, Path], encoder: Encoder, conduct: Conduct) -> Data:
    """Reads, checks and encodes all files of a test.

    A training row with a text that the segmenter cannot cut is left out; rows that are scored stay, that text as one word.
    Raises InputError where a file is not in its format, or no row is left to train on or to keep out.
    """
    rows = {name: read_rows(path, task) for name, path in files.items()}
    if conduct.choose_on == "fold":
        rows["train"], rows["fold"] = keep_out(rows["train"])
        if not rows["fold"]:
            raise InputError(f"{files['train']}: all its rows belong together, none can be kept out. Take --choose-on valid.")
    splits: dict[str, Split] = {}
    rejected: dict[str, dict[str, int]] = {}
    for name, own in rows.items():
        pieces = encoder(text for row in own for text in texts_of(row, task))
        reasons: dict[str, int] = {}
        for found in pieces.values():
            if found.rejected:
                reason = found.rejected.split(":")[0]
                reasons[reason] = reasons.get(reason, 0) + 1
        if reasons:
            rejected[name] = reasons
        if name == "train" and reasons:
            own = [row for row in own if not any(pieces[text].rejected for text in texts_of(row, task))]
        if not own:
            raise InputError(
                f"{files[name]}: the segmenter gave no words for any of its rows ({reasons}). Look at the segmenter."
            )
        splits[name] = Split(own, examples_of(own, task, pieces, encoder, conduct.max_length))
    return Data(splits, rejected, {n: c for n, s in splits.items() if (c := ceiling(task, s.rows, s.examples))})
