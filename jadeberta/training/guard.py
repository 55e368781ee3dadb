"""Stands between ZeRO and Adam: an update whose numbers cannot be right never touches a weight or a moment.

The decision is made of numbers that all ranks share already, the loss of the global batch and the global gradient norm, so that all
ranks decide alike without a message of their own.
"""

import math
import statistics
from collections import deque
from typing import Any

from jadeberta.config import GuardConfig

NORMAL = 1.4826
"""A normal distribution's standard deviation in units of its median absolute deviation."""
FLOORS = {"loss": 0.01, "grad_norm": 0.3}
"""Least deviation, as a share of the median: a window that happens to be flat must not make a spike of everything."""


def deviations_above(value: float, window: list[float], floor: float) -> float:
    """How many robust standard deviations a value lies above the median of a window.

    Median and median absolute deviation: up to half of the window may be outliers without moving them (Rousseeuw and Croux:
    Alternatives to the median absolute deviation, 1993).

    Args:
        value: a new one.
        window: the values before, at least one.
        floor: least standard deviation, as a share of the median.
    """
    median = statistics.median(window)
    deviation = NORMAL * statistics.median(abs(v - median) for v in window)
    return (value - median) / max(deviation, floor * abs(median), 1e-12)


class Judge:
    """Says of each step whether its numbers can be right, by those of the good steps before it."""

    def __init__(self, config: GuardConfig) -> None:
        self.config = config
        self._windows = {name: deque[float](maxlen=config.window) for name in FLOORS}

    def fault(self, loss: float, grad_norm: float | None) -> str | None:
        """What is wrong with a step; None where nothing is. Half a window of good steps is needed to call one a spike."""
        if not is_sound(loss, grad_norm):
            return f"loss {loss} and gradient norm {grad_norm} are not both finite"
        for (name, window), value in zip(self._windows.items(), (loss, grad_norm), strict=True):
            if self.config.deviations == 0 or 2 * len(window) < self.config.window:
                continue
            assert value is not None
            above = deviations_above(value, list(window), FLOORS[name])
            if above > self.config.deviations:
                median = statistics.median(window)
                return f"{name} {value:.4g} is {above:.0f} deviations above {median:.4g}, the median of {len(window)} steps"
        return None

    def accept(self, loss: float, grad_norm: float) -> None:
        """Remembers a good step."""
        for window, value in zip(self._windows.values(), (loss, grad_norm), strict=True):
            window.append(value)

    def memory(self) -> dict[str, list[float]]:
        """What a checkpoint has to keep, so that the same steps are left out after a restart."""
        return {name: list(window) for name, window in self._windows.items()}

    def recall(self, memory: dict[str, list[float]]) -> None:
        for name, window in self._windows.items():
            window.clear()
            window.extend(memory.get(name, []))


class UpdateGuard:
    """Lets the inner optimizer's update through, or not."""

    def __init__(self, engine: Any, config: GuardConfig) -> None:
        self._zero = engine.optimizer
        self._update = engine.optimizer.optimizer.step
        self._judge = Judge(config)
        self._loss = 0.0
        self._judged = False
        self.fault: str | None = None
        """Why the last step changed nothing; None where it did change the weights."""
        engine.optimizer.optimizer.step = self._step

    def expect(self, loss: float) -> None:
        """Begins a step whose global batch has this loss."""
        self._loss, self._judged, self.fault = loss, False, "ZeRO made no update"

    def _step(self, *arguments: Any, **options: Any) -> Any:
        # ZeRO calls this once a parameter group, after it has the global norm; it marks a norm that is not finite with -1.
        if not self._judged:
            norm = self._zero._global_grad_norm
            norm = None if norm is None else float(norm)
            self._judged, self.fault = True, self._judge.fault(self._loss, norm)
            if self.fault is None:
                assert norm is not None
                self._judge.accept(self._loss, norm)
        return None if self.fault else self._update(*arguments, **options)

    def conclude(self, grad_norm: float) -> str | None:
        """Ends the step; why it changed nothing, if so. ZeRO leaves a step out by itself where a gradient is not finite."""
        if not self._judged:
            of_gradient = "a gradient is not finite"
            self.fault = of_gradient if is_sound(self._loss, grad_norm) else self._judge.fault(self._loss, grad_norm)
        return self.fault

    def memory(self) -> dict[str, list[float]]:
        return self._judge.memory()

    def recall(self, memory: dict[str, list[float]]) -> None:
        self._judge.recall(memory)


def is_sound(loss: float, grad_norm: float | None) -> bool:
    """Whether an update with this loss and global gradient norm may be made."""
    return math.isfinite(loss) and grad_norm is not None and math.isfinite(grad_norm) and grad_norm >= 0
