"""Juman++ in batches: a new process for each; an answer is accepted only if its words spell the line.

A batch that ends well is accepted only as a whole. Of one that dies or hangs the answers before that place are accepted, and the line there
is tried alone (`isolating.py`). Facts about the program were measured with 2.0.0-rc3.
"""

import math
import subprocess
from collections.abc import Callable
from itertools import islice, pairwise
from typing import Any

from jadeberta.shards import SegmenterError
from preprocess.config import SegmenterConfig
from preprocess.segmenters.base import Rejected, Spaced
from preprocess.segmenters.isolating import Interrupted, Isolating, Outcome
from preprocess.segmenters.lines import FEEDING, disguise, fragments, joined
from preprocess.segmenters.process import Stalled, Worker, find_program, first_line_to_v, how_ended, last_line, limited

SEPARATOR = b"\x1f"
MOST_COMPLAINTS = 2**20
"""Bytes that a process may print in addition to its answers."""
REMEDY = (
    "Install Juman++ 2.0.0-rc3 and set preprocess.segmenter.command to it, "
    "or choose another preprocess.segmenter.engine, such as mecab"
)


class Jumanpp(Isolating):
    """`jumanpp --segment`, one process for about `batch_sentences` lines; it works while the answers of the last one are read."""

    groups_ahead = 2
    remedy = REMEDY

    def __init__(self, config: SegmenterConfig) -> None:
        self._config = config
        self._command = find_program(config.command, "jumanpp", REMEDY)
        self.description = describe(self._command, config.timeout_seconds)
        self._worker = Worker()
        self._require_health()

    @property
    def _called(self) -> str:
        return self._command[0]

    def close(self) -> None:
        self._worker.close()

    def _begin(self, lines: list[str]) -> Callable[[], list[Spaced]]:
        cut = [fragments(line) for line in lines]
        self.cut_sentences += sum(len(parts) > 1 for parts in cut)
        launched = [(batch, self._launch(batch)) for batch in self._batches([disguise(p) for parts in cut for p in parts])]

        def tokenized() -> list[Spaced]:
            self._failures = 0
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

    def _run(self, batch: list[str]) -> Outcome:
        return self._launch(batch)()

    def _launch(self, batch: list[str]) -> Callable[[], Outcome]:
        """Gives a batch to a new process and returns a function that waits for its end and reads its answers."""
        data, timeout = "".join(f"{line}\n" for line in batch).encode(), self._timeout(len(batch))
        command = [*self._command, "--segment", f"--segment-separator={SEPARATOR.decode()}"]
        # The answer is the line and a byte for each word. Time of the processor ends one that nobody waits for any more.
        under_limits = limited(command, self._config.memory_mib, math.ceil(timeout) + 1, 4 * len(data) + MOST_COMPLAINTS)
        future = self._worker.submit(under_limits, data, timeout, self._patience)

        def outcome() -> Outcome:
            try:
                status, output, complaint = future.result()
            except subprocess.TimeoutExpired as e:
                answers = first_answers(data, e.output)
                place = len(answers) if isinstance(e, Stalled) else None
                return Interrupted("timeout", f"no answer within {e.timeout:.0f} s", answers, place)
            except OSError as e:
                return Rejected("crash", str(e))
            if status:
                answers = first_answers(data, output)
                return Interrupted("crash", how_ended(status, complaint), answers, len(answers))
            found = read_answers(data, output, complaint)
            # No answer of this batch is accepted: it is not known where the program began to answer other lines.
            place = len(first_answers(data, output)) if isinstance(found, Rejected) else 0
            return Interrupted(found.reason, found.detail, suspect=place) if isinstance(found, Rejected) else found

        return outcome

    def _timeout(self, lines: int) -> float:
        """Returns the time limit in seconds, shorter for parts of a batch. A program that stands still is ended before, see `_patience`."""
        return self._config.timeout_seconds * (0.25 + 0.75 * min(1.0, lines / self._config.batch_sentences))


def first_answers(fed: bytes, output: bytes) -> list[str]:
    """Returns the tokens of the first lines of a batch, up to the first that has no whole answer which spells it.

    Args:
        fed: the lines, each with its newline.
        output: standard output of a program that was interrupted.
    """
    found: list[str] = []
    for line, row in zip(fed.split(b"\n")[:-1], output.split(b"\n")[:-1], strict=False):
        if row.replace(SEPARATOR, b"") != line:
            break
        try:
            found.append(row.decode().replace(SEPARATOR.decode(), " "))
        except UnicodeDecodeError:
            break
    return found


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
