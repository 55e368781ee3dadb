"""The one hierarchy of errors that users see, and the exit statuses that job scripts rely on.

Every message is a sentence that names what was wrong, where (file, line, host, rank), and what to do about it.
A command ends with the `exit_status` of the error's class. The statuses are part of the contract with job scripts.
"""

import re
from collections.abc import Iterator

CONTROL_CHARACTER = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")
"""What would begin a line, or tell a terminal something: controls, separators of lines, and marks that turn the direction of text."""


def escape_controls(text: str) -> str:
    """Returns a text of one line, with control characters as Python writes them, e.g. `\\n`."""
    return CONTROL_CHARACTER.sub(lambda found: ascii(found[0])[1:-1], text)


class JadebertaError(Exception):
    """Base of every error that the user can fix; commands print its message alone, without a traceback."""

    exit_status = 1
    """Status with which a command ends. Two classes with one status must agree on `retryable`."""
    retryable = True
    """Whether another attempt can succeed without a change by the user. Status 1 covers unforeseen failures, so it can."""

    def __str__(self) -> str:
        """The sentence in one line, whatever a path or value in it holds; each further argument is a line below it."""
        return "\n".join(escape_controls(str(line)) for line in self.args)


class ConfigError(JadebertaError):
    """A recipe, an option or the environment is wrong or contradicts itself."""

    exit_status = 2
    retryable = False


class ForeignRunError(JadebertaError):
    """Another run, or another launch of this one, meets at the address where this process looked for its own."""

    exit_status = 2
    retryable = False


class InputError(JadebertaError):
    """A corpus file or another input is missing, truncated or not in its format."""


class OutputError(JadebertaError):
    """A file cannot be written: the disk is full, the directory is read-only or gone."""


class ShardError(JadebertaError):
    """A shard directory is missing, damaged or not the expected one."""


class ResourceError(JadebertaError):
    """This process or its host ran out of something (descriptors, memory), or a file system does not answer; no file is damaged."""


class SegmenterError(JadebertaError):
    """The word segmenter cannot be started, or its dictionary is not usable."""


class CheckpointError(JadebertaError):
    """A checkpoint is damaged or belongs to another run."""


class StopRequested(JadebertaError):
    """The file STOP or Ctrl-C ended the run; a checkpoint was saved."""

    exit_status = 10
    retryable = False


class RequeueRequested(JadebertaError):
    """The run was interrupted (time limit, preemption) and needs another attempt; a checkpoint was saved."""

    exit_status = 11


class HangError(JadebertaError):
    """A rank, or a process that it needs, hung or is gone, so the other ranks cannot go on; the job needs another attempt."""

    exit_status = 12


class NumericsError(JadebertaError):
    """The numbers cannot be trusted and rolling back did not help, or the ranks' weights differ."""

    exit_status = 13
    retryable = False


class NothingToResume(JadebertaError):
    """A checkpoint was required (`--resume required`) and no valid one is there."""

    exit_status = 3
    retryable = False


def is_retryable(status: int) -> bool:
    """Whether another attempt can succeed where a job failed with this status; read by every launch path.

    Args:
        status: not 0. A status that no error class has (a signal, an unforeseen failure) is retryable.
    """
    return all(error.retryable for error in _classes(JadebertaError) if error.exit_status == status)


def _classes(base: type[JadebertaError]) -> Iterator[type[JadebertaError]]:
    yield base
    for derived in base.__subclasses__():
        yield from _classes(derived)
