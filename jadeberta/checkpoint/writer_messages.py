"""Messages between the training process and its checkpoint writer: a dataclass for each command and for each answer.

On the pipe each is one line of JSON with its kind. Knows no tensors and imports nothing heavy: the writer process must start at once.
"""

from dataclasses import asdict, dataclass, field
from typing import Any

import orjson

from jadeberta.checkpoint.commit import Files


@dataclass(frozen=True)
class MemoryFile:
    """A file that lies complete in the memory which both processes share."""

    name: str
    """Name of the file in the checkpoint."""
    offset: int
    """First byte in the memory."""
    size: int
    """Size in bytes."""


@dataclass(frozen=True, kw_only=True)
class WriteCommand:
    """Write this rank's files of a checkpoint into its temporary directory."""

    root: str
    """The run's `checkpoints` directory."""
    step: int
    """Step of the checkpoint."""
    space_needed: int
    """Bytes of the whole checkpoint, all ranks together; the disk must have them free before anything is written."""
    files: list[MemoryFile]
    """Files in the shared memory."""
    texts: dict[str, str] = field(default_factory=dict)
    """Content of small files, by name; only rank 0 has some."""
    staging: str = ""
    """Directory on the node's own disk in which a folder for this save is made; empty: written to `root` at once."""
    rank: int = 0
    """Rank whose files these are."""


@dataclass(frozen=True, kw_only=True)
class PublishCommand:
    """Commit a checkpoint that all ranks have written: manifest, rename, flush. Only rank 0 sends it."""

    root: str
    step: int
    files: Files
    """Size and sha256 of every file of every rank."""


@dataclass(frozen=True, kw_only=True)
class DiscardCommand:
    """Remove the files of a save that failed."""

    root: str
    step: int


@dataclass(frozen=True, kw_only=True)
class VerifyCommand:
    """Read a committed checkpoint back from the disk."""

    root: str
    step: int


@dataclass(frozen=True, kw_only=True)
class TrustCommand:
    """Note that the training process has read and hashed this checkpoint: pruning need not do it again."""

    step: int


@dataclass(frozen=True, kw_only=True)
class PruneCommand:
    """Remove old checkpoints by the recipe's two rules."""

    root: str
    keep_last: int
    """Newest trusted checkpoints that stay; 0: all stay."""
    keep_every: int
    """Checkpoints at multiples of this step stay for good; 0: none."""


Command = WriteCommand | PublishCommand | DiscardCommand | VerifyCommand | TrustCommand | PruneCommand


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What every answer carries."""

    step: int | None
    """Step of the command; None where the command names none."""
    error: str | None
    """One sentence; None where the command was carried out."""
    seconds: float
    """Time that the command took."""


@dataclass(frozen=True, kw_only=True)
class WriteAnswer(Answer):
    """Answer to WriteCommand."""

    files: Files = field(default_factory=dict)
    """Size and sha256 of every file that this rank has written; empty where it failed."""


@dataclass(frozen=True, kw_only=True)
class PublishAnswer(Answer):
    """Answer to PublishCommand."""


@dataclass(frozen=True, kw_only=True)
class DiscardAnswer(Answer):
    """Answer to DiscardCommand."""


@dataclass(frozen=True, kw_only=True)
class VerifyAnswer(Answer):
    """Answer to VerifyCommand."""

    faults: list[str] = field(default_factory=list)
    """Reasons not to trust the checkpoint, one sentence each; empty where it was read back as written."""


@dataclass(frozen=True, kw_only=True)
class TrustAnswer(Answer):
    """Answer to TrustCommand."""


@dataclass(frozen=True, kw_only=True)
class PruneAnswer(Answer):
    """Answer to PruneCommand."""

    removed: list[str] = field(default_factory=list)
    """Names of the removed checkpoints."""


ANSWERS: dict[type[Command], type[Answer]] = {
    WriteCommand: WriteAnswer,
    PublishCommand: PublishAnswer,
    DiscardCommand: DiscardAnswer,
    VerifyCommand: VerifyAnswer,
    TrustCommand: TrustAnswer,
    PruneCommand: PruneAnswer,
}
"""The class of the answer to each class of command."""
_KINDS: dict[str, type] = {kind.__name__: kind for pair in ANSWERS.items() for kind in pair}


def answer_to(command: Command, seconds: float, error: str | None = None, **result: Any) -> Answer:
    """Makes the answer to a command.

    Args:
        command: the command that was carried out, or failed.
        seconds: time that it took.
        error: one sentence; None where it was carried out.
        result: further fields of the answer's class.
    """
    return ANSWERS[type(command)](step=getattr(command, "step", None), error=error, seconds=seconds, **result)


def encode(message: Command | Answer) -> bytes:
    """Returns a command or an answer as one line of JSON."""
    return orjson.dumps({"kind": type(message).__name__, **asdict(message)}, option=orjson.OPT_APPEND_NEWLINE)


def decode_command(line: bytes) -> Command:
    """Returns the command that `encode` made a line of."""
    command: Command = _decode(line)
    return command


def decode_answer(line: bytes) -> Answer:
    """Returns the answer that `encode` made a line of."""
    answer: Answer = _decode(line)
    return answer


def _decode(line: bytes) -> Any:
    fields = orjson.loads(line)
    kind = _KINDS[fields.pop("kind")]
    # JSON has neither tuples nor dataclasses.
    if kind is WriteCommand:
        fields["files"] = [MemoryFile(**file) for file in fields["files"]]
    elif kind in (PublishCommand, WriteAnswer):
        fields["files"] = {name: (size, sha256) for name, (size, sha256) in fields["files"].items()}
    return kind(**fields)
