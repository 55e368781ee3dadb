"""JUMAN, and Juman++ for single sentences, through pyknp.

Closes two gaps of pyknp: an object that timed out or raised is thrown away with its process (a late answer would be taken for the next
sentence's, and so on forever), and rewritten tokens are mapped back by spelling the sentence that was asked.
"""

import contextlib
import math
import signal
import subprocess
import threading
from typing import Any

import pyknp

from jadeberta.shards import SegmenterError
from preprocess.config import SegmenterConfig
from preprocess.segmenters.base import Answer, Rejected, Segmenter, Spaced
from preprocess.segmenters.isolating import HURRY_AFTER, TEST_SENTENCE
from preprocess.segmenters.jumanpp import REMEDY, describe
from preprocess.segmenters.lines import FEEDING, disguise, fragments, joined
from preprocess.segmenters.process import find_program, first_line_to_v, limited

JUMAN_REMEDY = (
    "Install a working JUMAN 7 (Debian's package has an empty dictionary and answers EOS alone) and set "
    "preprocess.segmenter.command to it, or choose another preprocess.segmenter.engine, such as mecab"
)

# What rc3 prints in its full format instead of these characters.
REWRITTEN = {'"': "”", "<": "＜", ">": "＞"}


class _Whole(str):
    """A line that pyknp does not strip: the space at its end is needed (`disguise`)."""

    __slots__ = ()

    def strip(self, *_: Any) -> str:
        return str(self)


class _ByPyknp(Segmenter):
    """Segments sentence by sentence through one pyknp.Juman at a time."""

    _juman: Any = None
    _failures = 0
    _command: list[str]
    _remedy: str

    def __init__(self, config: SegmenterConfig) -> None:
        self._config = config

    def _tokenize(self, lines: list[str]) -> list[Spaced]:
        self._failures = 0
        cut = [fragments(line) for line in lines]
        self.cut_sentences += sum(len(parts) > 1 for parts in cut)
        return [joined([self._solve(disguise(fragment)) for fragment in parts]) for parts in cut]

    def _solve(self, line: str) -> Spaced:
        answer = self._ask(line)
        # After many failures a second attempt at each sentence would take hours.
        if isinstance(answer, Rejected) and self._failures < HURRY_AFTER:
            self.restarts += 1
            answer = self._ask(line)
        if isinstance(answer, Rejected):
            self._failures += 1
            self._require_health()
        return answer

    def _ask(self, line: str) -> Spaced:
        try:
            return " ".join(self._query(line))
        except subprocess.TimeoutExpired:
            return Rejected("timeout", "no answer in time, or the program died")  # pyknp does not tell the two apart
        except Exception as e:  # pyknp lets through whatever went wrong inside
            return Rejected("mismatch", f"{type(e).__name__}: {e}")

    def _query(self, line: str) -> list[str]:
        if threading.current_thread() is not threading.main_thread():
            # pyknp's timeout is an alarm, which only the main thread can have; elsewhere each sentence gets a process.
            return align(line, self._open(multithreading=True).juman_lines(_Whole(line)))
        # One process serves many sentences: to start JUMAN takes longer than a sentence.
        if self._juman is None:
            self._juman = self._open(multithreading=False)
        # pyknp installs its own alarm handler and leaves it there; ours is put back.
        handler = signal.getsignal(signal.SIGALRM)
        try:
            return align(line, self._juman.juman_lines(_Whole(line)))
        except BaseException:
            self.close()
            raise
        finally:
            signal.signal(signal.SIGALRM, signal.SIG_DFL if handler is None else handler)

    def _open(self, multithreading: bool) -> Any:
        # A whole number: pyknp's limit is an alarm of whole seconds.
        timeout = max(1, math.ceil(self._config.timeout_seconds / (60 if self._failures >= HURRY_AFTER else 4)))
        juman = pyknp.Juman(command=self._command[0], timeout=timeout, multithreading=multithreading)
        # pyknp would split the options at every space and has no limit on memory.
        juman.analyzer.command = limited(self._command, self._config.memory_mib)
        return juman

    def _require_health(self) -> None:
        answer = self._ask(TEST_SENTENCE)
        if isinstance(answer, Rejected):
            raise SegmenterError(
                f"{self._command[0]} does not segment a plain sentence ({answer.reason}: {answer.detail}). {self._remedy}."
            )

    def close(self) -> None:
        juman, self._juman = self._juman, None
        process = getattr(getattr(juman, "analyzer", None), "subprocess", None)
        if process is not None:
            process.process.kill()
            process.process.wait()
            with contextlib.suppress(OSError):
                process.process.stdin.close()


class Juman(_ByPyknp):
    """JUMAN 7."""

    def __init__(self, config: SegmenterConfig) -> None:
        super().__init__(config)
        self._remedy = JUMAN_REMEDY
        program, *options = find_program(config.command, "juman", JUMAN_REMEDY)
        # -e2: full format; -B: the best path without its aliases. What pyknp itself gives to JUMAN.
        self._command = [program, *options, "-e2", "-B"]
        version = first_line_to_v([program, *options], config.timeout_seconds, JUMAN_REMEDY)
        named = {"engine": "juman", "version": version, "dictionary": "the installation's"}
        self.description = named | {"options": options, "feeding": FEEDING}
        self._require_health()


class SingleSentence(_ByPyknp):
    """Juman++ for one sentence at a time, for inference; gives the same words as the batches of `Jumanpp`."""

    def __init__(self, config: SegmenterConfig) -> None:
        super().__init__(config)
        self._remedy = REMEDY
        self._command = find_program(config.command, "jumanpp", REMEDY)
        self.description = describe(self._command, config.timeout_seconds)
        self._require_health()

    def __call__(self, sentence: str) -> Answer:
        """Returns the words of one normalised sentence, or why there are none."""
        return self.segment([sentence])[0]


def align(line: str, answer: str) -> list[str]:
    """Returns the tokens of a full-format answer as substrings of `line`; pyknp's own list drops tokens that begin with '#'.

    Raises:
        ValueError: the answer belongs to another line.
    """
    tokens, at = [], 0
    for row in answer.split("\n"):
        if not row.strip() or (row.startswith("@ ") and not (row.startswith("@ @ ") and line.startswith("@", at))):
            continue  # "@ " begins a second reading of the token before, unless it is the token "@"
        surface = row.split(" ", 1)[0]
        token = line[at : at + len(surface)]
        if len(token) != len(surface) or any(t != s and REWRITTEN.get(t) != s for t, s in zip(token, surface, strict=True)):
            raise ValueError(f"answered {surface[:40]!r} at character {at + 1} of {line[:40]!r}")
        tokens.append(token)
        at += len(surface)
    if at != len(line):
        raise ValueError(f"answer ends at character {at + 1} of {line[:40]!r}")
    return tokens
