"""Where a run stands, apart from its weights: the counters that a checkpoint carries and every attempt goes on from."""

from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from jadeberta.config.batch_sizes import BatchSizes
from jadeberta.data.sample_order import Ranges, data_step

_KEYS = {"skipped_ranges": "stepped_over"}
"""Fields whose key in state.json has another name: checkpoints were written with it from the beginning."""


@dataclass
class RunState:
    """The counters of a run; all ranks have the same."""

    step: int = 0
    """Optimizer steps done, those skipped for their numbers included."""
    tokens: int = 0
    """Tokens, without padding, that these steps read."""
    skipped_steps: int = 0
    """Steps among them that changed nothing."""
    rollbacks: int = 0
    """Times that the run went back to a checkpoint."""
    skipped_ranges: Ranges = ()
    """Data steps [first, end), ascending, that are never trained on: the data of the steps that roll-backs undid."""

    @classmethod
    def of(cls, state: dict[str, Any]) -> "RunState":
        """Reads the counters in a checkpoint's state.json."""
        values = {f.name: state[key] for f in fields(cls) if (key := _KEYS.get(f.name, f.name)) in state}
        return cls(**values | {"skipped_ranges": tuple((first, end) for first, end in values.get("skipped_ranges", ()))})

    def counters(self) -> dict[str, Any]:
        """The counters by their keys in state.json."""
        return {_KEYS.get(name, name): value for name, value in asdict(self).items()}

    def position(self, sizes: BatchSizes) -> int:
        """First position of the sample order that the next step reads."""
        return sizes.before(data_step(self.step, self.skipped_ranges))

    def after_rollback(self, before: "RunState", end_step: int) -> "RunState":
        """This state, restored from a checkpoint, with the data of training steps [self.step, end_step) skipped.

        The steps keep their numbers and learning rates and get the data that comes after.

        Args:
            before: where the run stood when it turned back.
            end_step: first step after those that are undone.
        """
        first, end = data_step(self.step, before.skipped_ranges), data_step(end_step - 1, before.skipped_ranges) + 1
        # An older range may lie within the new one: the run went back further than the last time.
        outside = [r for r in before.skipped_ranges if not first <= r[0] < end]
        return replace(self, rollbacks=before.rollbacks + 1, skipped_ranges=tuple(sorted([*outside, (first, end)])))
