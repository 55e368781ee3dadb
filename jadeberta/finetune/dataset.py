"""The data of a fine-tuning experiment: the rows of each split, and the examples that the model reads."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jadeberta.errors import InputError
from jadeberta.finetune.encoder import Encoder
from jadeberta.finetune.features import Example, examples_of, texts_of
from jadeberta.finetune.grid import FinetuneConfig, split_fold
from jadeberta.finetune.jglue_files import JglueRow, read_rows
from jadeberta.finetune.scoring import ceiling, is_labelled
from jadeberta.finetune.tasks import Task


@dataclass(frozen=True)
class Split:
    """Rows and their examples."""

    rows: Sequence[JglueRow]
    examples: Sequence[Example]


@dataclass(frozen=True)
class Data:
    """All data of an experiment."""

    splits: dict[str, Split]
    """By name: train, valid, and fold and test if there are such."""
    rejected: dict[str, dict[str, int]]
    """Number of texts for which the segmenter returned no words, by split and reason."""
    ceiling: dict[str, dict[str, float]]
    """JSQuAD: the highest scores that the tokenization into pieces allows."""
    truncated: dict[str, int]
    """Number of rows of which pieces were cut off, by split; of JSQuAD those of questions."""
    unlabelled: tuple[str, ...] = ()
    """Splits without labels, which are predicted and not scored."""

    def to_train_on(self, task: Task) -> Sequence[Example]:
        """The training examples; for JSQuAD without rows whose answer lies in no single window.

        Windows without the answer are trained to point at [CLS], as in SQuAD's scripts.
        """
        examples = self.splits["train"].examples
        if task.kind != "span":
            return examples
        answered = {example.row for example in examples if example.places != (0, 0)}
        return [example for example in examples if example.row in answered]

    def counts(self) -> dict[str, Any]:
        """Counts for results.json."""
        rows = {name: len(split.rows) for name, split in self.splits.items()}
        counts = {"rows": rows, "rejected_texts": self.rejected, "truncated_rows": self.truncated, "ceiling": self.ceiling}
        return counts | ({"not_scored": list(self.unlabelled)} if self.unlabelled else {})

    def __str__(self) -> str:
        """The counts in one line."""
        rows = ", ".join(f"{name} {len(split.rows):,}" for name, split in self.splits.items())
        lost = "".join(f"; {sum(r.values())} texts of {name} without words ({', '.join(r)})" for name, r in self.rejected.items())
        best = f"; pieces allow EM {self.ceiling['valid']['exact_match']:.4f} on valid" if "valid" in self.ceiling else ""
        cut = ", ".join(f"{name} {count:,}" for name, count in self.truncated.items() if count)
        blind = f"; without labels, predicted and not scored: {', '.join(self.unlabelled)}" if self.unlabelled else ""
        return f"rows: {rows}{lost}{f'; truncated: {cut}' if cut else ''}{best}{blind}"


def read_data(task: Task, files: dict[str, Path], encoder: Encoder, config: FinetuneConfig) -> Data:
    """Reads, checks and encodes all files of an experiment.

    A training row with a text that the segmenter rejects is skipped. A scored row stays, with that text as one word.

    Args:
        task: of the files.
        files: by split.
        encoder: of the model.
        config: with max_length and choose_on.

    Raises:
        InputError: a file is not in its format, or no row is left to train on or for the fold.
    """
    rows = {name: read_rows(path, task, may_lack_labels=name == "test") for name, path in files.items()}
    if config.choose_on == "fold":
        rows["train"], rows["fold"] = split_fold(rows["train"])
        if not rows["fold"]:
            raise InputError(
                f"{files['train']}: too many of its rows share images or sentences, directly or through others, so no fold can be "
                "split off. Take --choose-on valid."
            )
    splits: dict[str, Split] = {}
    rejected: dict[str, dict[str, int]] = {}
    for name, own in rows.items():
        pieces = encoder(text for row in own for text in texts_of(row, task))
        reasons: dict[str, int] = {}
        for found in pieces.values():
            if found.rejected:
                # What follows the colon differs from text to text and cannot be counted.
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
        splits[name] = Split(own, examples_of(own, task, pieces, encoder, config.max_length))
    return Data(
        splits,
        rejected,
        {name: best for name, split in splits.items() if (best := ceiling(task, split.rows, split.examples))},
        {name: len({e.row for e in split.examples if e.is_truncated}) for name, split in splits.items()},
        tuple(name for name, split in splits.items() if not is_labelled(task, split.rows)),
    )
