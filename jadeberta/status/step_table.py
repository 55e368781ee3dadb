"""The steps of a run as columns: what metrics.jsonl says about each, one array for each figure.

A run of five weeks has 300,000 rows. As objects they take half a gigabyte and seconds, as columns 20 MB and a moment.
"""

from collections.abc import Iterable
from dataclasses import dataclass, fields

import numpy as np
import numpy.typing as npt

from jadeberta.utils.json_lines import JsonRow, finite

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]
Booleans = npt.NDArray[np.bool_]

LARGEST = 2**62
"""Numbers of steps and attempts beyond this are taken for damage."""
ROW = np.dtype(
    [
        ("attempt", "<i8"),
        ("number", "<i8"),
        ("time", "<f8"),
        ("seconds", "<f8"),
        ("data_wait_s", "<f8"),
        ("loss", "<f8"),
        ("tokens_per_second", "<f8"),
        ("mfu", "<f8"),
        ("tokens", "<f8"),
        ("lr", "<f4"),
        ("grad_norm", "<f4"),
        ("masked_accuracy", "<f4"),
        ("batch_hash", "<u8"),
        ("skipped", "?"),
    ]
)
"""One row of metrics.jsonl; NaN where it has no such figure, `number` -1 where it is no step, `batch_hash` 0 where there is none."""
FIGURES = ("data_wait_s", "loss", "tokens_per_second", "mfu", "tokens", "lr", "grad_norm", "masked_accuracy")
LARGEST_FIGURE = 3.4e38
"""Of the figures that are kept in single precision."""


@dataclass
class StepTable:
    """Steps in the order of their rows. All columns have the same length."""

    attempt: Integers
    """Number of the attempt that trained the step, from 0."""
    number: Integers
    """Number of the step, from 1."""
    time: Floats
    """Unix time of its end; NaN where the row has none."""
    seconds: Floats
    """Duration, its wait for data included."""
    data_wait_s: Floats
    loss: Floats
    tokens_per_second: Floats
    mfu: Floats
    tokens: Floats
    """Trained on from the beginning of the run to the end of the step."""
    lr: Floats
    """In single precision, as the two below it."""
    grad_norm: Floats
    masked_accuracy: Floats
    batch_hash: npt.NDArray[np.uint64]
    """Of the samples of the global batch; 0 where the row has none."""
    skipped: Booleans
    """Whether the step changed no weight."""
    place: Integers
    """Place of the row among all rows of the file, from 0."""
    lost: Booleans
    """Whether the run went back to before the step."""

    def __len__(self) -> int:
        return len(self.number)

    def __getitem__(self, which: slice | Integers | Booleans) -> "StepTable":
        return StepTable(**{column.name: getattr(self, column.name)[which] for column in fields(self)})

    @property
    def begin(self) -> Floats:
        """Unix time at which each step began; NaN where it is not known."""
        return self.time - self.seconds


def encode_rows(rows: Iterable[JsonRow], attempt: int = 0) -> npt.NDArray[np.void]:
    """Returns rows of metrics.jsonl as an array of `ROW`.

    Args:
        rows: in the order of the file.
        attempt: that of the row before the first. A row that names none belongs to the attempt of the row before.
    """
    found = []
    for row in rows:
        # Rows of old versions have `life` only.
        named = finite(row, "attempt" if "attempt" in row else "life")
        if named is not None and abs(named) < LARGEST:
            attempt = int(named)
        step = finite(row, "step")
        number = int(step) if step is not None and 0 <= step < LARGEST else -1
        time, seconds = (np.nan if (value := finite(row, key)) is None else value for key in ("time", "step_s"))
        figures = [np.nan if (value := finite(row, key)) is None or abs(value) > LARGEST_FIGURE else value for key in FIGURES]
        seconds = max(0.0, seconds) if seconds == seconds else 0.0
        found.append((attempt, number, time, seconds, *figures, _hash_of(row), bool(row.get("skipped"))))
    return np.array(found, dtype=ROW)


def _hash_of(row: JsonRow) -> int:
    """The batch hash of a row, 16 hexadecimal digits, as a number."""
    text = row.get("batch_hash")
    try:
        return int.from_bytes(bytes.fromhex(text)) if isinstance(text, str) and len(text) == 16 else 0
    except ValueError:
        return 0


def to_table(rows: npt.NDArray[np.void]) -> StepTable:
    """Returns the steps among rows that `encode_rows` has made; none of them is lost yet."""
    place = np.flatnonzero(rows["number"] >= 0)
    kept = rows if len(place) == len(rows) else rows[place]
    return StepTable(**{name: kept[name] for name in ROW.names or ()}, place=place, lost=np.zeros(len(kept), dtype=bool))
