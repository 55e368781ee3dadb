"""Juman++ in batches: a new process for each; a batch's answers are accepted only if the words of every line spell it.

Promises that a crash, a hang or nonsense costs only the sentence that causes it: a failed batch is halved until that sentence is
found; it is tried once more alone, then quarantined. Facts about the program were measured with 2.0.0-rc3.
"""

import math
import signal
import subprocess
from collections.abc import Callable, Iterator
from itertools import islice, pairwise
from typing import Any

from jadeberta.shards import SegmenterError
from preprocess.config import SegmenterConfig
from preprocess.segmenters.base import Rejected, Segmenter, Spaced
from preprocess.segmenters.lines import FEEDING, disguise, fragments, joined
from preprocess.segmenters.process import Worker, find_program, first_line_to_v, last_line, limited

SEPARATOR = b"\x1f"
TEST_SENTENCE = "これは試験です。"
HEALTH_ATTEMPTS = 3
"""Number of times that the program may fail at a plain sentence before the stage gives up; one that crashes sometimes is still of use."""
MOST_COMPLAINTS = 2**20
"""Bytes that a process may print in addition to its answers."""
REMEDY = (
    "Install Juman++ 2.0.0-rc3 and set preprocess.segmenter.command to it, "
    "or choose another preprocess.segmenter.engine, such as mecab"
)

Outcome = list[str] | Rejected
"""Tokens of every line of a batch with spaces between them, or what was wrong with the batch."""


class Jumanpp(Segmenter):
    """`jumanpp --segment`, one process for about `batch_sentences` lines; it works while the answers of the last one are read."""

    groups_ahead = 2

    def __init__(self, config: SegmenterConfig) -> None:
        self._config = config
        self._command = find_program(config.command, "jumanpp", REMEDY)
        self.description = describe(self._command, config.timeout_seconds)
        self._worker = Worker()
        self._require_health()

    def close(self) -> None:
        self._worker.close()

    def _begin(self, lines: list[str]) -> Callable[[], list[Spaced]]:
        cut = [fragments(line) for line in lines]
        launched = [(batch, self._launch(batch)) for batch in self._batches([disguise(p) for parts in cut for p in parts])]

        def tokenized() -> list[Spaced]:
            answers = (answer for batch, outcome in launched for answer in self._settle(batch, outcome()))
            return [joined(list(islice(answers, len(parts)))) for parts in cut]

        return tokenized

    def _tokenize(self, lines: list[str]) -> list[Spaced]:
        return self._begin(lines)()

    def _batches(self, fed: list[str]) -> list[list[str]]:
        """Divides lines into batches of equal size: a remainder of a few lines would cost the start of a process."""
        count = max(1, round(len(fed) / self._config.batch_sentences)) if fed else 0
        cuts = [len(fed) * number // count for number in range(count + 1)] if count else []
        return [fed[start:end] for start, end in pairwise(cuts)]

    def _settle(self, batch: list[str], outcome: Outcome) -> Iterator[Spaced]:
        """Yields the answer for each line, whatever the program did with the batch."""
        if isinstance(outcome, Rejected) and len(batch) > 1:
            self.restarts += 2
            half = len(batch) // 2
            yield from self._settle(batch[:half], self._run(batch[:half]))
            yield from self._settle(batch[half:], self._run(batch[half:]))
            return
        if isinstance(outcome, Rejected):
            self.restarts += 1
            outcome = self._run(batch)
        if isinstance(outcome, Rejected):
            # A program that answers nothing any more must stop the stage, not empty the corpus into the reject file.
            self._require_health()
            yield outcome
        else:
            yield from outcome

    def _run(self, batch: list[str]) -> Outcome:
        return self._launch(batch)()

    def _launch(self, batch: list[str]) -> Callable[[], Outcome]:
        """Gives a batch to a new process and returns a function that waits for its end and reads its answers."""
        data, timeout = "".join(f"{line}\n" for line in batch).encode(), self._timeout(len(batch))
        command = [*self._command, "--segment", f"--segment-separator={SEPARATOR.decode()}"]
        # The answer is the line and a byte for each word. Time of the processor ends one that nobody waits for any more.
        under_limits = limited(command, self._config.memory_mib, math.ceil(timeout) + 1, 4 * len(data) + MOST_COMPLAINTS)
        future = self._worker.submit(under_limits, data, timeout)

        def outcome() -> Outcome:
            try:
                status, output, complaint = future.result()
            except subprocess.TimeoutExpired as e:
                return Rejected("timeout", f"no answer within {e.timeout:.0f} s")
            except OSError as e:
                return Rejected("crash", str(e))
            if status:
                what = f"signal {-status} ({signal.strsignal(-status)})" if status < 0 else f"status {status}"
                how = "ended by" if status < 0 else "ended with"
                return Rejected("crash", f"{how} {what} {last_line(complaint)}".strip())
            return read_answers(data, output, complaint)

        return outcome

    def _timeout(self, lines: int) -> float:
        """Returns the time limit in seconds, shorter for parts of a batch: all halvings that find one hanging line take about five times
        `timeout_seconds`."""
        return self._config.timeout_seconds * (0.25 + 0.75 * min(1.0, lines / self._config.batch_sentences))

    def _require_health(self) -> None:
        outcome: Outcome = []
        for _ in range(HEALTH_ATTEMPTS):
            outcome = self._run([TEST_SENTENCE])
            if not isinstance(outcome, Rejected):
                return
        assert isinstance(outcome, Rejected)
        seen = f"{outcome.reason}: {outcome.detail}"
        raise SegmenterError(f"{self._command[0]} does not segment a plain sentence ({seen}). {REMEDY}.")


def read_answers(fed: bytes, output: bytes, complaint: bytes = b"") -> Outcome:
    """Returns the tokens of every line of a batch; Rejected if lines are missing or one does not spell its line.

    Args:
        fed: the lines, each with its newline; none holds a separator.
        output: standard output of the program.
        complaint: its standard error.
    """
    if output.replace(SEPARATOR, b"") == fed:
        try:
            return output.decode().replace(SEPARATOR.decode(), " ").split("\n")[:-1]
        except UnicodeDecodeError as e:
            return Rejected("mismatch", f"a word ends inside a character at byte {e.start} of the answer")
    asked, rows = fed.split(b"\n"), output.split(b"\n")
    # The program skips lines without any mark, so it is not known which answer of this batch belongs to which line.
    if rows[-1] or len(rows) != len(asked):
        return Rejected("mismatch", f"{len(rows) - 1} lines answered of {len(asked) - 1} {last_line(complaint)}".strip())
    pairs = ((line, row.replace(SEPARATOR, b"")) for line, row in zip(asked, rows, strict=True))
    line, found = next(((line, row) for line, row in pairs if line != row), (b"", b""))
    return Rejected("mismatch", f"answered {found.decode(errors='replace')[:40]!r} to {line.decode()[:40]!r}")


def describe(command: list[str], timeout: float) -> dict[str, Any]:
    """Returns what the words depend on: the program's name of itself, its options, and how it is fed.

    Raises:
        SegmenterError: the program is not Juman++ 2.
    """
    said = first_line_to_v(command, timeout, REMEDY)
    prefix = "Juman++ Version: "
    if not said.startswith(prefix):
        raise SegmenterError(f"{command[0]} is not Juman++ 2 (to -v it says {said[:80]!r}). {REMEDY}.")
    version, _, dictionary = said.removeprefix(prefix).partition(" / Dictionary: ")
    named = {"engine": "jumanpp", "version": version, "dictionary": dictionary or "unnamed"}
    return named | {"options": command[1:], "feeding": FEEDING}
