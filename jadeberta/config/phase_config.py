"""An entry of the recipe's list `phases`, as it is written; `jadeberta/config/phases.py` knows what it means."""

import difflib
from dataclasses import dataclass, fields
from typing import Any, Literal, get_args

from jadeberta.errors import ConfigError

MOST_PHASES = 200
"""Phases of a run, at most: each is looked up at every step."""
Schedule = Literal["linear", "constant", "cosine", "wsd"]
Attention = Literal["eager", "sdpa", "fused"]


@dataclass
class PhaseConfig:
    """One phase of a run: its steps, and what differs there from the sections data, model and training."""

    steps: int = 0
    """Optimizer steps of the phase; those of all phases together are training.max_steps."""
    sequence_length: int | None = None
    """Tokens in a row; left out: the directory's only or first length."""
    global_batch_size: int | None = None
    """Sequences of one optimizer step, over all ranks and micro-batches."""
    micro_batch_size: int | None = None
    """Sequences that a rank processes at once."""
    weights: dict[str, float] | None = None
    """Share of the rows that come from each corpus, as in data.weights."""
    repeats: dict[str, int] | None = None
    """How often an epoch sees each corpus, as in data.repeats."""
    mask_probability: float | list[float] | None = None
    """Share of the tokens to predict; [from, to] changes it in a straight line over the phase."""
    lr: float | None = None
    """Peak learning rate. With this, schedule, warmup_steps or decay_steps the phase has a schedule of its own, in its own steps."""
    schedule: Schedule | None = None
    """Learning rate after the phase's warm-up, as training.schedule."""
    warmup_steps: int | None = None
    """Steps over which the phase's learning rate rises from 0 to its peak; 0 where it is left out of a schedule of its own."""
    decay_steps: int | None = None
    """Last steps of the phase in which the schedule wsd falls to 0."""
    attention: Attention | None = None
    """Implementation of the attention, as model.attention."""

    @property
    def has_schedule(self) -> bool:
        """Whether the phase has a learning-rate schedule of its own."""
        return any(value is not None for value in (self.lr, self.schedule, self.warmup_steps, self.decay_steps))


CHOICES: dict[str, tuple[str, ...]] = {"schedule": get_args(Schedule), "attention": get_args(Attention)}
WHOLE = ("steps", "sequence_length", "global_batch_size", "micro_batch_size", "warmup_steps", "decay_steps")


def read_phases(entries: Any) -> list[PhaseConfig]:
    """Reads the list `phases` as YAML gives it.

    Raises:
        ConfigError: it is no list or too long, an entry is no mapping, a key is unknown, or a value is of another type; names the entry.
    """
    if not isinstance(entries, list):
        raise ConfigError(f"phases is {str(entries)[:60]}; it must be a list of mappings, each with steps.")
    if len(entries) > MOST_PHASES:
        raise ConfigError(f"phases has {len(entries):,} entries; it may have at most {MOST_PHASES:,}.")
    return [_read_phase(entry, f"phases, entry {number}") for number, entry in enumerate(entries, 1)]


def _read_phase(entry: Any, where: str) -> PhaseConfig:
    known = [field.name for field in fields(PhaseConfig)]
    if not isinstance(entry, dict):
        raise ConfigError(f"{where} is {entry!r}; it must be a mapping with steps and the keys that differ in the phase.")
    values = {}
    for key, value in entry.items():
        if key not in known:
            near = difflib.get_close_matches(str(key), known, n=1)
            raise ConfigError(
                f"{where}: unknown key {key}; " + (f"did you mean {near[0]}?" if near else f"it takes {', '.join(known)}.")
            )
        if value is None:
            continue
        values[key], wanted = _read_value(key, value)
        if wanted:
            raise ConfigError(f"{where}: {key} is {value!r}; it must be {wanted}.")
    return PhaseConfig(**values)


def _read_value(key: str, value: Any) -> tuple[Any, str]:
    """Returns the value of a key, and what it must be where it is something else."""
    if key in CHOICES:
        return value, "" if value in CHOICES[key] else f"one of {', '.join(CHOICES[key])}"
    if key in WHOLE:
        return value, "" if type(value) is int else "a whole number"
    if key == "lr":
        return (number := _number(value)), "" if number is not None else "a number"
    if key == "mask_probability":
        numbers = [_number(v) for v in (value if isinstance(value, list) else [value])]
        is_good = None not in numbers and (not isinstance(value, list) or len(numbers) == 2)
        return numbers if isinstance(value, list) else numbers[0], "" if is_good else "a number or [from, to]"
    if not isinstance(value, dict):
        return value, "a mapping from corpora to numbers"
    if key == "repeats":
        is_good = all(type(v) is int and v >= 0 for v in value.values())
        return {
            str(name): v for name, v in value.items()
        }, "" if is_good else "a mapping from corpora to whole numbers of at least 0"
    shares = {str(name): _number(v) for name, v in value.items()}
    return shares, "" if None not in shares.values() else "a mapping from corpora to shares"


def _number(value: Any) -> float | None:
    """The value as a number; None where it is none. YAML 1.1 reads 1e-4 as text."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        return float(value)
    except (ValueError, OverflowError):
        return None
