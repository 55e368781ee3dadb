"""TensorBoard: curves in the run directory's `tensorboard` folder."""

from pathlib import Path
from typing import Any

from torch.utils.tensorboard import SummaryWriter

from jadeberta.training.sinks import MetricsSink

TAGS = {
    "loss": "train/loss",
    "masked_accuracy": "train/masked_accuracy",
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
    """Writes one point a step and curve."""

    def __init__(self, run_dir: Path, first_step: int) -> None:
        # purge_step takes the points of steps that are trained again off the curves.
        self._writer = SummaryWriter(str(run_dir / "tensorboard"), purge_step=first_step + 1, flush_secs=10)

    def write(self, step: int, values: dict[str, Any]) -> None:
        for key, tag in TAGS.items():
            if values.get(key) is not None:
                self._writer.add_scalar(tag, values[key], step)

    def close(self) -> None:
        self._writer.close()
