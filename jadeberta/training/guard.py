"""The update guard, between ZeRO and Adam: an update whose numbers cannot be right never touches a weight or a moment.

It decides by numbers that all ranks share already, the loss of the global batch and the global gradient norm. So all ranks decide alike
without a message of their own.
"""

import math
import statistics
from collections import deque
from typing import Any

from jadeberta.config import GuardConfig

NORMAL = 1.4826
"""Standard deviation of a normal distribution in units of its median absolute deviation."""
FLOORS = {"loss": 0.01, "grad_norm": 0.3, "discriminator_loss": 0.01}
"""Least deviation, as a share of the median: a window that happens to be flat must not make everything a spike."""


def deviations_above(value: float, window: list[float], floor: float) -> float:
    """Robust standard deviations by which a value lies above the median of a window.

    Up to half of the window may be outliers without moving median and median absolute deviation (Rousseeuw and Croux: Alternatives to
    the median absolute deviation, 1993).

    Args:
        value: the new one.
        window: the values before it, at least one.
        floor: least standard deviation, as a share of the median.
    """
    median = statistics.median(window)
    deviation = NORMAL * statistics.median(abs(v - median) for v in window)
    return (value - median) / max(deviation, floor * abs(median), 1e-12)


class SpikeDetector:
    """Judges whether the numbers of a step can be right, by those of the good steps before it."""

    def __init__(self, config: GuardConfig) -> None:
        self.config = config
        self._windows = {name: deque[float](maxlen=config.window) for name in FLOORS}

    def fault(self, loss: float, grad_norm: float | None, discriminator_loss: float | None = None) -> str | None:
        """What is wrong with a step; None where nothing is.

        Args:
            loss: mean over the masked tokens of the global batch.
            grad_norm: global L2 norm before clipping; None where ZeRO has none.
            discriminator_loss: mean over the tokens of the global batch; None where there is no discriminator.
        """
        if not is_sound(loss, grad_norm):
            return f"loss {loss} and gradient norm {grad_norm} are not both finite"
        if discriminator_loss is not None and not math.isfinite(discriminator_loss):
            return f"the discriminator's loss is {discriminator_loss}"
        for (name, window), value in zip(self._windows.items(), (loss, grad_norm, discriminator_loss), strict=True):
            if self.config.deviations == 0 or 2 * len(window) < self.config.window:
                continue  # too few good steps to call one a spike: half a window is needed
            assert value is not None
            above = deviations_above(value, list(window), FLOORS[name])
            if above > self.config.deviations:
                median = statistics.median(window)
                return f"{name} {value:.4g} is {above:.0f} deviations above {median:.4g}, the median of {len(window)} steps"
        return None

    def accept(self, loss: float, grad_norm: float, discriminator_loss: float | None = None) -> None:
        """Takes the numbers of a good step into the windows."""
        for window, value in zip(self._windows.values(), (loss, grad_norm, discriminator_loss), strict=True):
            if value is not None:
                window.append(value)

    def memory(self) -> dict[str, list[float]]:
        """The windows, which a checkpoint keeps: after a restart the same steps are skipped."""
        # Without a discriminator there is no window of its loss, and checkpoints stay as they were.
        return {name: list(window) for name, window in self._windows.items() if window or name != "discriminator_loss"}

    def recall(self, memory: dict[str, list[float]]) -> None:
        """Restores the windows from a checkpoint."""
        for name, window in self._windows.items():
            window.clear()
            window.extend(memory.get(name, []))


class UpdateGuard:
    """Lets the inner optimizer's update through, or skips it."""

    def __init__(self, engine: Any, config: GuardConfig) -> None:
        """Puts itself in place of the inner optimizer's `step` of a DeepSpeed engine."""
        self._zero = engine.optimizer
        self._update = engine.optimizer.optimizer.step
        self._detector = SpikeDetector(config)
        self._loss = 0.0
        self._discriminator_loss: float | None = None
        self._checked = False
        self.fault: str | None = None
        """Why the last step changed nothing; None where it did change the weights."""
        engine.optimizer.optimizer.step = self._step

    def expect(self, loss: float, discriminator_loss: float | None = None) -> None:
        """Begins a step whose global batch has this mean loss; called before ZeRO's update."""
        self._discriminator_loss = discriminator_loss
        self._loss, self._checked, self.fault = loss, False, "ZeRO made no update"

    def _step(self, *arguments: Any, **options: Any) -> Any:
        # ZeRO calls this once a parameter group, after it has the global norm; it marks a norm that is not finite with -1.
        if not self._checked:
            norm = self._zero._global_grad_norm
            norm = None if norm is None else float(norm)
            self._checked, self.fault = True, self._detector.fault(self._loss, norm, self._discriminator_loss)
            if self.fault is None:
                assert norm is not None
                self._detector.accept(self._loss, norm, self._discriminator_loss)
        return None if self.fault else self._update(*arguments, **options)

    def conclude(self, grad_norm: float) -> str | None:
        """Ends the step; returns why it changed nothing, None where it did change the weights."""
        if not self._checked:
            # ZeRO skips the update by itself, without calling the optimizer, where a gradient is not finite.
            of_gradient = "a gradient is not finite"
            self.fault = of_gradient if is_sound(self._loss, grad_norm) else self._detector.fault(self._loss, grad_norm)
        return self.fault

    def memory(self) -> dict[str, list[float]]:
        """See `SpikeDetector.memory`."""
        return self._detector.memory()

    def recall(self, memory: dict[str, list[float]]) -> None:
        """See `SpikeDetector.recall`."""
        self._detector.recall(memory)


def is_sound(loss: float, grad_norm: float | None) -> bool:
    """Whether an update with this loss and global gradient norm may be made."""
    return math.isfinite(loss) and grad_norm is not None and math.isfinite(grad_norm) and grad_norm >= 0
