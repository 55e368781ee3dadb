"""Metrics sinks: other places, beside metrics.jsonl, where the metrics of each step go.

One module of this package is one sink: its name is the value in the recipe's `logging.sinks`, its class `Sink` does the work.
"""

import pkgutil
from abc import ABC, abstractmethod
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from jadeberta.errors import ConfigError
from jadeberta.utils.json_lines import JsonRow


class MetricsSink(ABC):
    """Base of a module's class `Sink`. Rank 0 alone makes one; an error that it raises ends the sink, not the run."""

    @abstractmethod
    def __init__(self, run_dir: Path, first_step: int) -> None:
        """Opens the sink.

        Args:
            run_dir: directory of the run.
            first_step: the steps up to this one stay; later ones that an earlier attempt wrote are trained again.
        """

    @abstractmethod
    def write(self, step: int, values: dict[str, Any]) -> None:
        """Takes the metrics of a step (from 1): the keys of metrics.jsonl, and `goodput`. A value that was not measured is None."""

    def event(self, step: int, row: JsonRow) -> None:  # noqa: B027 - a sink of figures alone has no use for events
        """Takes an event of the ledger, as it is written there, and the step after which it happened.

        The figures of an evaluation come this way too, see `ledger.held_out`. After a `rollback` the steps beyond `step` come again.
        """

    @abstractmethod
    def close(self) -> None:
        """Flushes and ends the sink."""


def known_sinks() -> list[str]:
    """Names that `logging.sinks` may hold: the modules of this package."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__))


def require_known_sinks(names: Sequence[str]) -> None:
    """Checks names before anything starts.

    Raises:
        ConfigError: there is no sink of a name; the sentence lists those there are.
    """
    if unknown := [name for name in names if name not in known_sinks()]:
        raise ConfigError(f"logging.sinks holds '{unknown[0]}', which is no metrics sink; there are: {', '.join(known_sinks())}.")


def open_sink(name: str, run_dir: Path, first_step: int) -> MetricsSink:
    """Makes the sink of a name; see `MetricsSink.__init__`. The import happens here: a sink's library may be slow to load."""
    sink: MetricsSink = import_module(f"{__name__}.{name}").Sink(run_dir, first_step)
    return sink
