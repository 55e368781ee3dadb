"""TensorBoard: curves in the run directory's `tensorboard` folder.

Writes the event file itself and not through `SummaryWriter`, whose thread ends with a traceback where the disk is full.
"""

import logging
import os
import socket
import time
from io import BytesIO
from pathlib import Path
from typing import Any

from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.record_writer import RecordWriter

from jadeberta.training.patient_file import PatientFile
from jadeberta.training.sinks import MetricsSink

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
}
"""The metrics that become curves, and the names of the curves."""


class Sink(MetricsSink):
    """Writes one point a step and curve; points that the disk does not take wait in memory."""

    def __init__(self, run_dir: Path, first_step: int) -> None:
        name = f"events.out.tfevents.{time.time():010.0f}.{socket.gethostname()}.{os.getpid()}.0"
        self._file, self._has_failed = PatientFile(run_dir / "tensorboard" / name), False
        # A start of the session takes the points of steps that are trained again off the curves.
        begin = Event(step=first_step + 1, session_log=SessionLog(status=SessionLog.START))
        self._append(Event(file_version="brain.Event:2"), begin)

    def write(self, step: int, values: dict[str, Any]) -> None:
        points = [Summary.Value(tag=tag, simple_value=values[key]) for key, tag in TAGS.items() if values.get(key) is not None]
        self._append(Event(step=step, summary=Summary(value=points)))

    def _append(self, *events: Event) -> None:
        content = BytesIO()
        writer = RecordWriter(content)
        for event in events:
            event.wall_time = time.time()
            writer.write(event.SerializeToString())
        try:
            self._file.write(content.getvalue())
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
