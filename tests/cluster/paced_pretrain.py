"""`jadeberta` whose steps take a second at least: `python paced.py pretrain ...`. How far a life gets then does not hang on the machine."""

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
