"""The six tasks of JGLUE: fields of a row, batch size, length, metrics.

Settings are those of JGLUE's authors (Kurihara et al. 2022), who had no JCoLA; its batch and length are this project's.

Knows no files and no model.
"""

from dataclasses import dataclass
from typing import Literal

Kind = Literal["regression", "classification", "choice", "span"]

LEARNING_RATES = (5e-5, 3e-5, 2e-5)
EPOCHS = (3, 4)
REPOSITORY = "https://github.com/yahoojapan/JGLUE"


@dataclass(frozen=True)
class Task:
    """One task of JGLUE."""

    name: str
    """Name of the task in --task."""
    folder: str
    """Name of its folder in JGLUE, without the version."""
    kind: Kind
    fields: tuple[str, ...]
    """Text fields of a row, in the order in which the model reads them; none for JSQuAD, which has its own format."""
    group: str
    """Field that names the images of a pair, which stay together when a fold is split off; empty where a row is no pair."""
    labels: tuple[str, ...]
    """Class names in the file; none if the label is a number."""
    batch_size: int
    max_length: int
    """Most tokens of a sequence, special ones included."""
    metrics: tuple[str, ...]
    """Metrics of the published scores, in their order."""
    chosen_by: str
    """Metric by which settings are compared."""
    download: str
    """How to get its files; the start of a sentence in error messages."""
    coded: bool = False
    """Whether labels stand in the file as the numbers of their classes."""
    also: tuple[str, ...] = ()
    """More metrics that are computed."""


def _from_repository(folder: str) -> str:
    return f"Download datasets/{folder} from {REPOSITORY}"


TASKS = {
    task.name: task
    for task in (
        Task(
            "jsts", "jsts", "regression", ("sentence1", "sentence2"), "yjcaptions_id", (), 32, 128,
            ("pearson", "spearman"), "spearman", _from_repository("jsts-v1.3"),
        ),
        Task(
            "jnli", "jnli", "classification", ("sentence1", "sentence2"), "yjcaptions_id",
            ("entailment", "contradiction", "neutral"), 32, 128, ("accuracy",), "accuracy", _from_repository("jnli-v1.3"),
        ),
        Task(
            "jsquad", "jsquad", "span", (), "", (), 32, 384,
            ("exact_match", "f1"), "f1", _from_repository("jsquad-v1.3"),
            also=("scripts_exact_match", "scripts_f1"),
        ),
        Task(
            "jcommonsenseqa", "jcommonsenseqa", "choice", ("question", *(f"choice{n}" for n in range(5))), "", (), 64, 64,
            ("accuracy",), "accuracy", _from_repository("jcommonsenseqa-v1.3"),
        ),
        Task(
            "jcola", "jcola", "classification", ("sentence",), "", ("unacceptable", "acceptable"), 32, 128,
            ("accuracy",), "accuracy", "Download data/jcola-v1.0 from https://github.com/osekilab/JCoLA", True, ("mcc",),
        ),
        Task(
            "marc-ja", "marc_ja", "classification", ("sentence",), "", ("positive", "negative"), 32, 512,
            ("accuracy",), "accuracy",
            f"Its reviews were withdrawn by their owner; who still has them makes the files with preprocess/marc-ja of {REPOSITORY}",
        ),
    )
}  # fmt: skip
