"""Finds the sentences that an engine in another process fails at; for engines that get many sentences at once.

Promises that a crash, a hang or nonsense costs only the sentence that causes it, which is tried once more alone before it is rejected, and
that a sentence costs a bounded number of processes and a bounded time, however many others fail beside it.
"""

from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import ClassVar

from jadeberta.shards import SegmenterError
from preprocess.config import SegmenterConfig
from preprocess.segmenters.base import Rejected, Segmenter, Spaced

Outcome = list[str] | Rejected
"""Tokens of every line of a batch with spaces between them, or what was wrong with the batch."""
TEST_SENTENCE = "これは試験です。"
HEALTH_ATTEMPTS = 3
"""Number of times that the program may fail at a plain sentence before the stage gives up; one that crashes sometimes is still of use."""
HURRY_AFTER = 8
"""Number of sentences of a group that may fail before less time and one attempt fewer is spent on the next ones."""
WRONG_SUSPECTS = 3
"""Number of suspected sentences of a batch that may be innocent before suspicion counts for nothing and the batch is halved."""


@dataclass(frozen=True)
class Interrupted(Rejected):
    """Result for a batch of which it is known how far the engine came."""

    answers: list[str] = field(default_factory=list)
    """Checked answers to the first lines, given before the engine failed."""
    suspect: int | None = None
    """Number of the line that it failed at; None: it ran out of time while it answered line after line."""


class Isolating(Segmenter):
    """An engine in another process, which may fail at any batch."""

    name: ClassVar[str]
    """Name of the engine in messages, unless `_called` says another one."""
    remedy: ClassVar[str]
    """What the user can do about an engine that does not work; a part of a sentence."""
    _failures = 0
    """Number of sentences of the present group that were rejected."""
    _config: SegmenterConfig

    @property
    def _called(self) -> str:
        return self.name

    @abstractmethod
    def _run(self, batch: list[str]) -> Outcome:
        """Returns the tokens of every line, or why there are none; ends a process that does nothing for `_patience` seconds."""

    @property
    def _patience(self) -> float:
        """Time in seconds that one line may take. An ordinary one takes a thousandth of a second."""
        usual = self._config.timeout_seconds / 4
        return max(self._config.timeout_seconds / 60, min(1.0, usual)) if self._failures >= HURRY_AFTER else usual

    def _settle(self, batch: list[str], outcome: Outcome, trusting: bool = True) -> Iterator[Spaced]:
        """Yields the answer for each line, whatever the engine did with the batch.

        Args:
            batch: lines.
            outcome: what the engine did with all of them.
            trusting: whether to look first at the line at which it failed. An engine that holds answers back seems to fail at an earlier
                one; then halving finds the guilty line in fewer attempts.
        """
        innocent = 0
        while isinstance(outcome, Rejected):
            if len(batch) == 1:
                yield self._last_attempt(batch, outcome)
                return
            if not (trusting and isinstance(outcome, Interrupted)):
                yield from self._halve(batch)
                return
            yield from outcome.answers
            batch = batch[len(outcome.answers) :]
            if not batch:
                return
            if outcome.suspect is not None or not outcome.answers:
                place = min((outcome.suspect or 0) - len(outcome.answers), len(batch) - 1)
                self.restarts += 1
                alone = self._run([batch[place]])
                answer = self._last_attempt([batch[place]], alone) if isinstance(alone, Rejected) else alone[0]
                innocent += not isinstance(answer, Rejected)
                trusting = innocent < WRONG_SUSPECTS
                if place:
                    self.restarts += 1
                    yield from self._settle(batch[:place], self._run(batch[:place]), trusting=False)
                yield answer
                batch = batch[place + 1 :]
                if not batch:
                    return
            self.restarts += 1
            outcome = self._run(batch)
        yield from outcome

    def _halve(self, batch: list[str]) -> Iterator[Spaced]:
        half = len(batch) // 2
        for lines in (batch[:half], batch[half:]):
            self.restarts += 1
            yield from self._settle(lines, self._run(lines), trusting=False)

    def _last_attempt(self, line: list[str], outcome: Rejected) -> Spaced:
        """Returns the answer for one line that has failed alone."""
        again: Outcome = outcome
        if self._failures < HURRY_AFTER:
            self.restarts += 1
            again = self._run(line)
        if not isinstance(again, Rejected):
            return again[0]
        self._failures += 1
        # An engine that answers nothing any more must stop the stage, not empty the corpus into the reject file.
        self._require_health()
        return Rejected(again.reason, again.detail)

    def _require_health(self) -> None:
        outcome: Outcome = []
        for _ in range(HEALTH_ATTEMPTS):
            outcome = self._run([TEST_SENTENCE])
            if not isinstance(outcome, Rejected):
                return
        assert isinstance(outcome, Rejected)
        seen = f"{outcome.reason}: {outcome.detail}"
        raise SegmenterError(f"{self._called} does not segment a plain sentence ({seen}). {self.remedy}.")
