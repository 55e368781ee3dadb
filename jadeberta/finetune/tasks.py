"""The five tasks of JGLUE (Kurihara et al. 2022): fields of a row, batch size, length, metrics. Settings are those of JGLUE's authors.

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
    chosen_by: str
    """Metric by which settings are compared."""
    download: str
    """How to get its files; the start of a sentence in error messages."""


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
        ),
        Task(
            "jcommonsenseqa", "jcommonsenseqa", "choice", ("question", *(f"choice{n}" for n in range(5))), "", (), 64, 64,
            ("accuracy",), "accuracy", _from_repository("jcommonsenseqa-v1.3"),
        ),
        Task(
            "marc-ja", "marc_ja", "classification", ("sentence",), "", ("positive", "negative"), 32, 512,
            ("accuracy",), "accuracy",
            f"Its reviews were withdrawn by their owner; who still has them makes the files with preprocess/marc-ja of {REPOSITORY}",
        ),
    )
}  # fmt: skip

PUBLISHED: dict[str, dict[str, tuple[float, ...]]] = {
    "Waseda RoBERTa base": {
        "marc-ja": (0.965,), "jsts": (0.913, 0.876), "jnli": (0.905,), "jsquad": (0.853, 0.916), "jcommonsenseqa": (0.853,),
    },
    "Waseda RoBERTa large, 512": {
        "marc-ja": (0.969,), "jsts": (0.925, 0.890), "jnli": (0.928,), "jsquad": (0.910, 0.955), "jcommonsenseqa": (0.900,),
    },
    "DeBERTa V2 base": {
        "marc-ja": (0.970,), "jsts": (0.922, 0.886), "jnli": (0.922,), "jsquad": (0.899, 0.951), "jcommonsenseqa": (0.873,),
    },
    "DeBERTa V2 large": {
        "marc-ja": (0.968,), "jsts": (0.925, 0.892), "jnli": (0.924,), "jsquad": (0.912, 0.959), "jcommonsenseqa": (0.890,),
    },
    "DeBERTa V3 base": {
        "marc-ja": (0.960,), "jsts": (0.927, 0.891), "jnli": (0.927,), "jsquad": (0.896, 0.947), "jcommonsenseqa": (0.875,),
    },
    "people (JGLUE)": {
        "marc-ja": (0.989,), "jsts": (0.899, 0.861), "jnli": (0.925,), "jsquad": (0.871, 0.944), "jcommonsenseqa": (0.986,),
    },
}  # fmt: skip
"""Dev scores in the order of the task's metrics, from the README of nobu-g/JGLUE-evaluation-scripts: the best of a grid, chosen on dev."""
