"""A running average (EMA) of the fp32 master weights, partitioned as the optimizer's state is, so that no rank holds it whole.

It changes nothing that is trained, and goes into checkpoints as the optimizer's tensors do.
"""

from typing import Any, Literal

import torch
import torch.distributed as dist

from jadeberta.training.zero_state import adam_step, flat_masters, fragments, load_working_weight


def decay_of(update: int, ema_decay: float) -> float:
    """The share of itself that the average keeps at an update.

    The first updates keep less, so that the average soon forgets the random weights it began with (the rule of TensorFlow's
    ExponentialMovingAverage with num_updates).

    Args:
        update: number of the update, from 1; skipped ones do not count.
        ema_decay: share that it keeps in the long run.
    """
    return min(ema_decay, (1 + update) / (10 + update))


class WeightAverage:
    """The average of one engine's weights."""

    def __init__(self, engine: Any, ema_decay: float) -> None:
        """Takes an engine whose optimizer state was made with `zero_state.create_optimizer_state(..., averaged=True)`."""
        self._engine, self._ema_decay, self._updates = engine, ema_decay, 0

    def update(self) -> None:
        """Moves the average towards the weights, after an update that was made."""
        self._updates += 1
        kept = decay_of(self._updates, self._ema_decay)
        state = self._engine.optimizer.optimizer.state
        for flat in flat_masters(self._engine):
            state[flat]["ema"].lerp_(flat.detach(), 1 - kept)

    def recall(self) -> None:
        """Takes the number of updates from Adam, once Adam has been restored from a checkpoint."""
        self._updates = adam_step(self._engine)


def show(engine: Any, kind: Literal["master", "ema"]) -> None:
    """Has the forward pass use the weights as they are trained (master), or their average (ema); every rank calls it.

    The parameters are assembled one after another from the ranks' fragments, so that no second copy of the model is held.
    """
    mine = {fragment.name: fragment for fragment in fragments(engine)}
    for name, parameter in engine.module.named_parameters():
        # As integers: an element that one rank fills and the others leave at 0 keeps its bits in the sum, those of -0.0 too.
        whole = torch.zeros(getattr(parameter, "ds_numel", parameter.numel()), dtype=torch.int32, device=engine.device)
        if name in mine:
            own = mine[name].tensors()[kind]
            whole[mine[name].start : mine[name].start + own.numel()] = own.view(torch.int32)
        dist.all_reduce(whole)
        load_working_weight(parameter, whole.view(torch.float32).view(getattr(parameter, "ds_shape", parameter.shape)))
