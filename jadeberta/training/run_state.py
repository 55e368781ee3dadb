"""Where a run stands, apart from its weights: the counters that a checkpoint carries and every life goes on from."""

from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from jadeberta.config.batch_sizes import BatchSizes
from jadeberta.data.sample_order import Ranges, data_step


@dataclass
class RunState:
    """The counters of a run; all ranks have the same."""

    step: int = 0
    """Optimizer steps that are done, those left out for their numbers included."""
    tokens: int = 0
    """Tokens without padding that these steps read."""
    skipped_steps: int = 0
    """Steps among them that changed nothing."""
    rollbacks: int = 0
    """Times that the run went back to a checkpoint."""
    stepped_over: Ranges = ()
    """Data steps [first, end) that are never trained on, ascending: what a roll-back went back over."""

    @classmethod
    def of(cls, state: dict[str, Any]) -> "RunState":
        """From a checkpoint's state.json."""
        values = {f.name: state[f.name] for f in fields(cls) if f.name in state}
        return cls(**values | {"stepped_over": tuple((first, end) for first, end in values.get("stepped_over", ()))})

    def counters(self) -> dict[str, Any]:
        return asdict(self)

    def position(self, sizes: BatchSizes) -> int:
        """First position of the sample order that the next step reads."""
        return sizes.before(data_step(self.step, self.stepped_over))

    def after_rollback(self, before: "RunState", end_step: int) -> "RunState":
        """This state, restored from a checkpoint, with the data of training steps [self.step, end_step) stepped over.

        The steps keep their numbers and learning rates and get the data that comes after.

        Args:
            before: where the run stood when it turned back.
            end_step: the first step whose data is trained on.
        """
        first, end = data_step(self.step, before.stepped_over), data_step(end_step - 1, before.stepped_over) + 1
        outside = [r for r in before.stepped_over if not first <= r[0] < end]
        return replace(self, rollbacks=before.rollbacks + 1, stepped_over=tuple(sorted([*outside, (first, end)])))
