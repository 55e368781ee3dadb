"""`python paced_pretrain.py pretrain ...`: `jadeberta` with steps of at least a second, on a machine of any speed."""

import time
from typing import Any

from jadeberta.cli import main
from jadeberta.training.engine import TrainingEngine

FLOOR_S = 1.0
unpaced = TrainingEngine.step


def step(engine: TrainingEngine, *told: Any) -> Any:
    """The step, and the rest of the second."""
    begun = time.monotonic()
    result = unpaced(engine, *told)
    time.sleep(max(0.0, FLOOR_S - (time.monotonic() - begun)))
    return result


TrainingEngine.step = step  # type: ignore[method-assign]
main()
