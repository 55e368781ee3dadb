"""Juman++ in batches: a fresh process for each, answers accepted only where every line spells itself.

Promises that a crash, a hang or nonsense costs the guilty sentence alone: a failed batch is halved down to it, it is tried once
more on its own, then set aside. Facts about the program are those measured with 2.0.0-rc3.
"""

import os
import shlex
import shutil
import signal
import subprocess
from collections.abc import Iterator
from itertools import islice

from jadeberta.shards import SegmenterError
from preprocess.config import SegmenterConfig
from preprocess.segmenters import Answer, Rejected, Segmenter
from preprocess.segmenters.lines import disguise, joined, pieces

SEPARATOR = "\x1f"
TEST_SENTENCE = "これは試験です。"
REMEDY = (
    "Install Juman++ 2.0.0-rc3 and set preprocess.segmenter.command to it, "
    "or choose another preprocess.segmenter.engine, such as mecab"
)


class Jumanpp(Segmenter):
    """`jumanpp --segment`, a process for every `batch_sentences` lines."""

    def __init__(self, config: SegmenterConfig) -> None:
        self._config = config
        self._command = find_program(config.command, "jumanpp", REMEDY)
        version, dictionary = read_version(self._command, config.timeout_seconds)
        self.description = {
            "engine": "jumanpp",
            "version": version,
            "dictionary": dictionary,
            "options": self._command[1:],
        }
        self._require_health()

    def _tokenize(self, lines: list[str]) -> list[Answer]:
        cut = [pieces(line) for line in lines]
        fed = [disguise(piece) for parts in cut for piece in parts]
        size = self._config.batch_sentences
        answers = (answer for start in range(0, len(fed), size) for answer in self._solve(fed[start : start + size]))
        return [joined(list(islice(answers, len(parts)))) for parts in cut]

    def _solve(self, batch: list[str]) -> Iterator[Answer]:
        """The answer of each line, however the program behaves."""
        answer = self._run(batch)
        if isinstance(answer, Rejected) and len(batch) > 1:
            self.restarts += 2
            half = len(batch) // 2
            yield from self._solve(batch[:half])
            yield from self._solve(batch[half:])
            return
        if isinstance(answer, Rejected):
            self.restarts += 1
            answer = self._run(batch)
        if isinstance(answer, Rejected):
            # A program that answers nothing any more must stop the stage, not empty the corpus into the reject file.
            self._require_health()
            yield answer
        else:
            yield from answer

    def _run(self, batch: list[str]) -> list[list[str]] | Rejected:
        """Tokens of every line from one fresh process, or what was wrong with the whole."""
        command = [*self._command, "--segment", f"--segment-separator={SEPARATOR}"]
        text = "".join(f"{line}\n" for line in batch)
        try:
            status, output, complaint = run_limited(command, text.encode(), self._timeout(len(batch)), self._config.memory_mib)
        except subprocess.TimeoutExpired as e:
            return Rejected("timeout", f"no answer within {e.timeout:.0f} s")
        except OSError as e:
            return Rejected("crash", str(e))
        if status:
            what = f"ended by signal {-status} ({signal.strsignal(-status)})" if status < 0 else f"ended with status {status}"
            return Rejected("crash", f"{what} {last_line(complaint)}".strip())
        return read_answers(batch, output, complaint)

    def _timeout(self, lines: int) -> float:
        """Shorter for parts of a batch: all the halvings that find one hanging line take about five times `timeout_seconds`."""
        return self._config.timeout_seconds * (0.25 + 0.75 * min(1.0, lines / self._config.batch_sentences))

    def _require_health(self) -> None:
        answer = self._run([TEST_SENTENCE])
        if isinstance(answer, Rejected):
            seen = f"{answer.reason}: {answer.detail}"
            raise SegmenterError(f"{self._command[0]} does not segment a plain sentence ({seen}). {REMEDY}.")


def read_answers(batch: list[str], output: bytes, complaint: bytes = b"") -> list[list[str]] | Rejected:
    """Tokens of every line of a batch; Rejected where lines are missing or one does not spell what was asked."""
    rows = output.split(b"\n")
    if rows.pop() or len(rows) != len(batch):
        # The program leaves lines out without any mark, so no answer of this batch can be told from its neighbour's.
        return Rejected("mismatch", f"{len(rows)} lines answered of {len(batch)} {last_line(complaint)}".strip())
    answers = []
    for line, row in zip(batch, rows, strict=True):
        tokens = row.decode(errors="replace").split(SEPARATOR)
        if "".join(tokens) != line:
            return Rejected("mismatch", f"answered {''.join(tokens)[:40]!r} to {line[:40]!r}")
        answers.append(tokens)
    return answers


def find_program(command: str, default: str, remedy: str) -> list[str]:
    """`command` as an argument list, its program found on PATH; raises SegmenterError with `remedy`."""
    try:
        words = shlex.split(command) or [default]
    except ValueError as e:
        raise SegmenterError(f"preprocess.segmenter.command {command!r} cannot be read ({e}). Balance its quotes.") from e
    if shutil.which(words[0]) is None:
        raise SegmenterError(f"{words[0]}: no such program. {remedy}.")
    return words


def read_version(command: list[str], timeout: float) -> tuple[str, str]:
    """Version and dictionary that Juman++ 2 names."""
    said = first_line_to_v(command, timeout, REMEDY)
    prefix = "Juman++ Version: "
    if not said.startswith(prefix):
        raise SegmenterError(f"{command[0]} is not Juman++ 2 (to -v it says {said[:80]!r}). {REMEDY}.")
    version, _, dictionary = said.removeprefix(prefix).partition(" / Dictionary: ")
    return version, dictionary or "unnamed"


def first_line_to_v(command: list[str], timeout: float, remedy: str) -> str:
    """What `command -v` says; its exit status says nothing (rc3 ends with 1)."""
    try:
        _, output, complaint = run_limited([*command, "-v"], b"", timeout)
    except (subprocess.TimeoutExpired, OSError) as e:
        raise SegmenterError(f"{command[0]} does not answer to -v ({e}). {remedy}.") from e
    return next(iter((output + complaint).decode(errors="replace").strip().splitlines()), "")


def limited(command: list[str], memory_mib: int) -> list[str]:
    """`command` under an address space limit, by the shell: Python code between fork and exec is unsafe beside MPI's threads."""
    return ["/bin/sh", "-c", 'ulimit -v "$0" && exec "$@"', str(memory_mib * 1024), *command]


def run_limited(command: list[str], data: bytes, timeout: float, memory_mib: int | None = None) -> tuple[int, bytes, bytes]:
    """Exit status, output and complaints of `command` fed with `data`; killed with its children where it outlasts `timeout`."""
    argv = command if memory_mib is None else limited(command, memory_mib)
    pipe = subprocess.PIPE
    with subprocess.Popen(argv, stdin=pipe, stdout=pipe, stderr=pipe, start_new_session=True) as process:
        try:
            output, complaint = process.communicate(data, timeout)
        except BaseException:
            os.killpg(process.pid, signal.SIGKILL)
            raise
        return process.returncode, output, complaint


def last_line(complaint: bytes) -> str:
    lines = complaint.decode(errors="replace").strip().splitlines()
    return lines[-1][:200] if lines else ""
