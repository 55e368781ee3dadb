"""What a step measured: `metrics.jsonl` and the metrics sinks, and the floating-point work behind MFU."""

import logging
import resource
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import orjson

from jadeberta.config import ModelConfig, Recipe
from jadeberta.training.patient_file import PatientFile
from jadeberta.training.sinks import MetricsSink, open_sink
from jadeberta.utils.json_lines import JsonRow, ends_within_line, finite

if TYPE_CHECKING:  # what reads metrics must start at once
    import torch

logger = logging.getLogger(__name__)


class GoodputMeter(Protocol):
    """Says after each step which share of the run's wall time was spent in steps that stayed."""

    def after_step(self, row: JsonRow) -> float | None:
        """Takes a row of metrics.jsonl; None where the share is not known yet. Never waits."""

    def after_rollback(self) -> None:
        """The run has gone back to an earlier step."""


class MetricsWriter:
    """Writes the metrics of each step: to metrics.jsonl, which is the record, and to the sinks of the recipe."""

    def __init__(self, run_dir: Path, sinks: Sequence[str], first_step: int, goodput: GoodputMeter | None = None) -> None:
        """Opens the sinks; the file is opened by the first row.

        Args:
            run_dir: directory of the run.
            sinks: their names, the recipe's `logging.sinks`.
            first_step: step that the run goes on from.
            goodput: for the sinks, which then get the goodput of the run so far with each step.
        """
        self._step, self._goodput = first_step, goodput if sinks else None
        path = run_dir / "metrics.jsonl"
        self._file, self._has_failed = PatientFile(path), False
        # A kill within a line leaves no newline: the next row would be glued to it and lost.
        self._unended = b"\n" if ends_within_line(path) else b""
        self._sinks: dict[str, MetricsSink] = {}
        for name in sinks:
            try:
                self._sinks[name] = open_sink(name, run_dir, first_step)
            except Exception as e:
                self._warn_of_sink(name, e)

    def write(self, row: dict[str, Any]) -> None:
        """Writes the metrics of step `row["step"]`.

        A full disk must not end a run that computes: what cannot be written waits in memory, which is reported once. A sink that raises
        an error gets no more steps.
        """
        line, self._unended = self._unended + orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE), b""
        try:
            self._file.write(line)
        except OSError as e:
            if not self._has_failed:
                logger.warning("metrics cannot be written (%s); they are kept in memory and written later", e.strerror)
            self._has_failed = True
        self._step = row["step"]
        if self._goodput is not None:
            row = {**row, "goodput": self._goodput.after_step(row)}
        for name, sink in list(self._sinks.items()):
            try:
                sink.write(row["step"], row)
            except Exception as e:  # libraries of others, and services behind them, fail in many ways
                del self._sinks[name]
                self._warn_of_sink(name, e)

    def event(self, row: JsonRow) -> None:
        """Gives an event of the ledger to the sinks; one without a step happened after the last one."""
        step = finite(row, "step")
        if row.get("event") == "rollback" and step is not None:
            self._step = int(step)
            if self._goodput is not None:
                self._goodput.after_rollback()
        for name, sink in list(self._sinks.items()):
            try:
                sink.event(self._step if step is None else int(step), row)
            except Exception as e:
                del self._sinks[name]
                self._warn_of_sink(name, e)

    def close(self) -> None:
        """Writes what waits, closes the file and the sinks; says how many rows are lost for good."""
        try:
            self._file.flush()
        except OSError as e:
            logger.warning("%s: cannot be written (%s)", self._file.path, e.strerror)
        if lost := self._file.waiting + self._file.dropped:
            logger.warning("%s: %s rows of metrics are lost", self._file.path, lost)
        self._file.close()
        for name, sink in self._sinks.items():
            try:
                sink.close()
            except Exception as e:
                self._warn_of_sink(name, e)
        self._sinks.clear()

    def _warn_of_sink(self, name: str, error: Exception) -> None:
        logger.warning("metrics sink %s failed (%s: %s); training goes on without it", name, type(error).__name__, error)


def training_flops_per_token(model: ModelConfig, sequence_length: int, micro_batch_size: int, head_share: float) -> float:
    """Matrix-product FLOPs of forward and backward for one token; 2 per multiply-add, backward counted as twice forward.

    Args:
        model: the sizes.
        sequence_length: tokens in a row.
        micro_batch_size: rows that share one projection of the position table.
        head_share: share of the positions that go through the output head.
    """
    hidden, inner, layers = model.hidden_size, model.intermediate_size, model.num_hidden_layers
    heads = model.num_attention_heads * model.attention_head_size
    span = model.position_buckets if model.position_buckets > 0 else model.max_position_embeddings
    position_terms = len(set(model.pos_att_type)) if model.relative_attention else 0
    linear = 2 * (3 * hidden * heads + heads * hidden + 2 * hidden * inner)
    content = 2 * 2 * sequence_length * heads
    position_scores = position_terms * 2 * 2 * span * heads
    position_tables = position_terms * 2 * 2 * span * hidden * heads / (micro_batch_size * sequence_length)
    convolution = 2 * model.conv_kernel_size * hidden * hidden
    head = head_share * 2 * (hidden * hidden + hidden * model.vocab_size)
    return 3 * (layers * (linear + content + position_scores + position_tables) + convolution + head)


def step_flops_per_token(recipe: Recipe, sequence_length: int, micro_batch_size: int, head_share: float) -> float:
    """FLOPs of forward and backward for one token under the recipe's objective, see `training_flops_per_token`.

    Args:
        recipe: of the run.
        sequence_length: tokens in a row.
        micro_batch_size: rows of a micro-batch.
        head_share: share of the positions that go through the language model's head.
    """
    shape = (sequence_length, micro_batch_size)
    if recipe.training.objective == "mlm":
        return training_flops_per_token(recipe.model, *shape, head_share)
    layers = recipe.rtd.layers_of_generator(recipe.model.num_hidden_layers)
    generator = training_flops_per_token(replace(recipe.model, num_hidden_layers=layers), *shape, head_share)
    width = recipe.model.hidden_size
    # The discriminator's head is a matrix and a vector on every position.
    return generator + training_flops_per_token(recipe.model, *shape, 0.0) + 3 * 2 * (width * width + width)


def peak_memory_bytes(device: "torch.device") -> int:
    """The most that this process has held so far: of a GPU what torch allocated there, of a CPU the resident set."""
    if device.type == "cuda":
        import torch

        return torch.cuda.max_memory_allocated(device)
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # Linux counts in KiB
