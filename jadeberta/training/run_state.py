"""Where a run stands, apart from its weights: the counters that a checkpoint carries and every attempt goes on from."""

from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from jadeberta.data.phase_order import PhasedOrder, SkippedSamples
from jadeberta.data.sample_order import Ranges, SampleOrder, data_step
from jadeberta.errors import ConfigError

Order = SampleOrder | PhasedOrder

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
    skipped_samples: SkippedSamples = ()
    """The same in a run with phases or weights: positions [first, end) of the order that phase `number` draws from first."""

    @classmethod
    def of(cls, state: dict[str, Any]) -> "RunState":
        """Reads the counters in a checkpoint's state.json."""
        values = {f.name: state[key] for f in fields(cls) if (key := _KEYS.get(f.name, f.name)) in state}
        ranges = tuple((first, end) for first, end in values.get("skipped_ranges", ()))
        samples = tuple((number, first, end) for number, first, end in values.get("skipped_samples", ()))
        return cls(**values | {"skipped_ranges": ranges, "skipped_samples": samples})

    def counters(self) -> dict[str, Any]:
        """The counters by their keys in state.json."""
        # A run that skipped no samples has no such key, as before there were phases.
        return {_KEYS.get(k, k): v for k, v in asdict(self).items() if k != "skipped_samples" or v}

    def order(self, whole: Order) -> Order:
        """Returns the order of the run with what was skipped left out.

        Raises:
            ConfigError: samples were skipped in an order of phases, which the run does not have any more.
        """
        if isinstance(whole, PhasedOrder):
            return whole.skipping(self.skipped_samples, self.skipped_ranges)
        if self.skipped_samples:
            raise ConfigError(
                "the run rolled back while its recipe had phases or weights; set them back, or choose another run.dir."
            )
        return whole.skipping(self.skipped_ranges)

    def after_rollback(self, before: "RunState", end_step: int, whole: Order) -> "RunState":
        """This state, restored from a checkpoint, with the data of training steps [self.step, end_step) skipped.

        The steps keep their numbers, phases and learning rates and get the data that comes after.

        Args:
            before: where the run stood when it turned back.
            end_step: first step after those that are undone.
            whole: order of the run before any roll-back.
        """
        count = before.rollbacks + 1
        if isinstance(whole, PhasedOrder):
            order = whole.skipping(before.skipped_samples, before.skipped_ranges).undoing(self.step, end_step)
            return replace(self, rollbacks=count, skipped_ranges=(), skipped_samples=order.skipped_samples)
        first, end = data_step(self.step, before.skipped_ranges), data_step(end_step - 1, before.skipped_ranges) + 1
        # An older range may lie within the new one: the run went back further than the last time.
        outside = [r for r in before.skipped_ranges if not first <= r[0] < end]
        return replace(self, rollbacks=count, skipped_ranges=tuple(sorted([*outside, (first, end)])))
