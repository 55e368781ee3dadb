"""The one hierarchy of errors that users see.

Every message is a sentence that names what was wrong, where (file, line, rank), and what to do about it.
A command ends with the `exit_status` of the error's class; the statuses are part of the contract with job scripts.
"""


class JadebertaError(Exception):
    """Base of every error that is the user's to mend; commands print its message alone, without a traceback."""

    exit_status = 1


class ConfigError(JadebertaError):
    """A recipe, an option or the environment is wrong or contradicts itself."""

    exit_status = 2


class InputError(JadebertaError):
    """A corpus file or another input is missing, cut short or not in its format."""


class OutputError(JadebertaError):
    """A file cannot be written: the disk is full, the directory is read-only or gone."""


class ShardError(JadebertaError):
    """A shard directory is missing, damaged or not the one that was expected."""


class SegmenterError(JadebertaError):
    """The word segmenter cannot be started, or its dictionary is not usable."""


class CheckpointError(JadebertaError):
    """A checkpoint is damaged or belongs to another run."""


class StopAsked(JadebertaError):
    """The file STOP ended the run; a checkpoint was saved."""

    exit_status = 10


class RequeueWanted(JadebertaError):
    """The run was interrupted (time limit, preemption) and wants another life; a checkpoint was saved."""

    exit_status = 11


class HangError(JadebertaError):
    """A rank, or a process that it needs, hung or is gone; the others cannot go on without it. The job wants another life."""

    exit_status = 12


class NumericsError(JadebertaError):
    """The numbers cannot be trusted and going back did not help, or the ranks' weights differ."""

    exit_status = 13


class NothingToResume(JadebertaError):
    """A checkpoint was required (`--resume required`) and no valid one is there."""

    exit_status = 3
