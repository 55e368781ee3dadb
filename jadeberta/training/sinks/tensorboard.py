"""TensorBoard: curves in the run directory's `tensorboard` folder.

Writes the event file itself and not through `SummaryWriter`, whose thread ends with a traceback where the disk is full.
"""

import logging
import os
import socket
import time
from collections.abc import Mapping
from io import BytesIO
from pathlib import Path
from typing import Any

from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary, SummaryMetadata
from tensorboard.compat.proto.tensor_pb2 import TensorProto
from tensorboard.compat.proto.tensor_shape_pb2 import TensorShapeProto
from tensorboard.compat.proto.types_pb2 import DT_STRING
from tensorboard.summary.writer.record_writer import RecordWriter

from jadeberta.training.ledger import held_out, in_words
from jadeberta.training.patient_file import PatientFile
from jadeberta.training.sinks import MetricsSink
from jadeberta.utils.json_lines import JsonRow

logger = logging.getLogger(__name__)

TAGS = {
    "loss": "train/loss",
    "masked_accuracy": "train/masked_accuracy",
    "discriminator_loss": "train/discriminator_loss",
    "replaced_share": "train/replaced_share",
    "replaced_accuracy": "train/replaced_accuracy",
    "original_accuracy": "train/original_accuracy",
    "lr": "train/lr",
    "grad_norm": "train/grad_norm",
    "tokens_per_second": "speed/tokens_per_second",
    "positions_per_second": "speed/positions_per_second",
    "mfu": "speed/mfu",
    "mfu_with_padding": "speed/mfu_with_padding",
    "data_wait_s": "speed/data_wait_s",
    "save_wait_s": "speed/save_wait_s",
    "step_s": "speed/step_s",
    "communication_s": "speed/communication_s",
    "goodput": "speed/goodput",
}
"""The metrics that become curves, and the names of the curves."""
FILE_VERSION = "brain.Event:2"
"""What an event file begins with."""


def encode(event: Event) -> bytes:
    """Returns an event as a record of an event file."""
    content = BytesIO()
    RecordWriter(content).write(event.SerializeToString())
    return content.getvalue()


def restart(first_step: int) -> Event:
    """Returns what takes the points from a step on off the curves."""
    return Event(step=first_step, session_log=SessionLog(status=SessionLog.START))


def points(step: int, values: Mapping[str, float | None]) -> Event:
    """Returns one point of each curve, by its name; None has none."""
    found = [Summary.Value(tag=tag, simple_value=value) for tag, value in values.items() if value is not None]
    return Event(step=step, summary=Summary(value=found))


def text(step: int, tag: str, line: str) -> Event:
    """Returns a line for TensorBoard's page of texts."""
    plugin = SummaryMetadata(plugin_data=SummaryMetadata.PluginData(plugin_name="text"))
    shape = TensorShapeProto(dim=[TensorShapeProto.Dim(size=1)])
    # A lone surrogate, as in the name of a file, is no UTF-8.
    content = TensorProto(dtype=DT_STRING, string_val=[line.encode(errors="replace")], tensor_shape=shape)
    return Event(step=step, summary=Summary(value=[Summary.Value(tag=tag, metadata=plugin, tensor=content)]))


def of_event(step: int, row: JsonRow) -> list[Event]:
    """Returns what TensorBoard shows of an event of the ledger: a line, and of an evaluation the figures."""
    found = [text(step, f"events/{row.get('event')}", in_words(row))]
    if figures := held_out(row):
        found.append(points(step, figures))
    return found


class Sink(MetricsSink):
    """Writes one point a step and curve; points that the disk does not take wait in memory."""

    def __init__(self, run_dir: Path, first_step: int) -> None:
        name = f"events.out.tfevents.{time.time():010.0f}.{socket.gethostname()}.{os.getpid()}.0"
        self._file, self._has_failed = PatientFile(run_dir / "tensorboard" / name), False
        # Steps that are trained again are taken off the curves.
        self._append(Event(file_version=FILE_VERSION), restart(first_step + 1))

    def write(self, step: int, values: dict[str, Any]) -> None:
        self._append(points(step, {tag: values.get(key) for key, tag in TAGS.items()}))

    def event(self, step: int, row: JsonRow) -> None:
        if row.get("event") == "rollback":
            self._append(restart(step + 1))
        self._append(*of_event(step, row))

    def _append(self, *events: Event) -> None:
        for event in events:
            event.wall_time = time.time()
        try:
            self._file.write(b"".join(encode(event) for event in events))
        except OSError as e:
            if not self._has_failed:
                logger.warning(
                    "TensorBoard's file cannot be written (%s); its points are kept in memory and written later", e.strerror
                )
            self._has_failed = True

    def close(self) -> None:
        try:
            self._file.flush()
        except OSError as e:
            logger.warning("%s: cannot be written (%s)", self._file.path, e.strerror)
        if lost := self._file.waiting + self._file.dropped:
            logger.warning("%s: %s points are lost", self._file.path, lost)
        self._file.close()
