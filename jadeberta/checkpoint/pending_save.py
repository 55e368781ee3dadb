"""What the checkpointer remembers of a save until it is committed or has failed."""

from dataclasses import dataclass


@dataclass
class PendingSave:
    """A save between `save()` and the end of its commit."""

    step: int
    tokens: int
    skipped_steps: int
    began: float
    """time.monotonic() when the training began to wait for it."""
    sent: float
    """time.monotonic() when the copy was complete; the time limit counts from here."""
    stall_s: float = 0.0
    """Seconds that the training waited."""
