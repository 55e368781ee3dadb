"""Stands between ZeRO and Adam: an update whose loss or gradient is not finite never touches a weight or a moment.

The decision is made of numbers that all ranks share already, the loss of the global batch and the global gradient norm, so that all
ranks decide alike without a message of their own.
"""

import math
from typing import Any


class UpdateGuard:
    """Lets the inner optimizer's update through, or not."""

    def __init__(self, engine: Any) -> None:
        self._zero = engine.optimizer
        self._update = engine.optimizer.optimizer.step
        self._loss = 0.0
        self.updated = False
        """Whether the last step changed the weights."""
        engine.optimizer.optimizer.step = self._step

    def expect(self, loss: float) -> None:
        """Begins a step whose global batch has this loss."""
        self._loss, self.updated = loss, False

    def _step(self, *arguments: Any, **options: Any) -> Any:
        # ZeRO calls this once a parameter group, after it has the global norm; it marks a norm that is not finite with -1.
        if not is_sound(self._loss, self._zero._global_grad_norm):
            return None
        self.updated = True
        return self._update(*arguments, **options)


def is_sound(loss: float, grad_norm: float | None) -> bool:
    """Whether an update with this loss and global gradient norm may be made."""
    return math.isfinite(loss) and grad_norm is not None and math.isfinite(grad_norm) and grad_norm >= 0
