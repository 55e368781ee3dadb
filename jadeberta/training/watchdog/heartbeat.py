"""The heartbeat of a rank: one memory page that the trainer writes and the watchdog reads, and the files both know by name.

Writing a heartbeat costs microseconds and waits for nothing; a reader never gets half a heartbeat. Imports nothing heavy: the watchdog
process starts with this file.
"""

import contextlib
import hashlib
import mmap
import os
import select
import struct
import zlib
from pathlib import Path
from typing import NamedTuple

PHASES = ("start", "first_step", "step", "save", "eval", "end")
"""Phases of a rank, in their order; `save` and `eval` come after the step whose number they carry."""
HANG = b"H"
"""Byte that the watchdog sends to its trainer: end with the status of a hang."""
LOOK_S = 1.0
"""Seconds between two looks whether the watchdog lives: its end of the socket may stay open, held by a forked loader."""
_PHASE_NUMBER = {phase: number for number, phase in enumerate(PHASES)}
_BEAT = struct.Struct("<QddqIB32s")
_CHECKED = _BEAT.size + 4
"""Bytes of a slot: a heartbeat and its CRC-32."""
_SLOTS = (0, 128)
_LISTENER = struct.Struct("<i")
_LISTENER_AT = 256
"""Layout of the page: two slots for heartbeats at _SLOTS, then the number of the trainer's listening thread."""


class Heartbeat(NamedTuple):
    """One heartbeat: where a trainer was when it wrote it."""

    number: int
    """Heartbeats since the process began."""
    since: float
    """CLOCK_MONOTONIC when it entered this phase and step, seconds."""
    section_since: float
    """CLOCK_MONOTONIC when it entered this section, seconds."""
    step: int
    beats: int
    """Heartbeats in this phase and step: how far a rank is where its sections have no known order."""
    phase: str
    section: str


def write_heartbeat(memory: mmap.mmap, beat: Heartbeat) -> None:
    """Writes into the older of two slots."""
    # A trainer that is stopped in the middle of this leaves the other slot whole; the checksum tells which.
    body = _BEAT.pack(*beat[:5], _PHASE_NUMBER[beat.phase], beat.section.encode()[:32])
    at = _SLOTS[beat.number & 1]
    memory[at : at + _CHECKED] = body + zlib.crc32(body).to_bytes(4, "little")


def read_heartbeat(memory: mmap.mmap) -> Heartbeat | None:
    """The newest whole heartbeat; None where both slots were being written."""
    newest = None
    for at in _SLOTS:
        slot = memory[at : at + _CHECKED]
        if zlib.crc32(slot[:-4]).to_bytes(4, "little") != slot[-4:]:
            continue
        number, since, section_since, step, beats, phase, section = _BEAT.unpack(slot[:-4])
        text = section.rstrip(b"\0").decode(errors="replace")
        beat = Heartbeat(number, since, section_since, step, beats, PHASES[phase], text)
        if newest is None or beat.number > newest.number:
            newest = beat
    return newest


def listener_thread(memory: mmap.mmap) -> int:
    """Kernel's id of the trainer's thread that listens to the watchdog; 0 before there is one."""
    return _LISTENER.unpack_from(memory, _LISTENER_AT)[0]


def hang_path(run_dir: Path) -> Path:
    """File by which the ranks tell each other that the job hangs, and who is to blame."""
    return run_dir / "heartbeat" / "hang.json"


def record_path(run_dir: Path, rank: int) -> Path:
    """File with a rank's last heartbeat, for every rank and for people."""
    return run_dir / "heartbeat" / f"rank-{rank:05d}.json"


def stacks_path(run_dir: Path, rank: int) -> Path:
    """File that the stacks of a rank are appended to."""
    return run_dir / "logs" / f"stacks-rank-{rank:05d}.txt"


def digest(path: Path) -> str:
    """sha256 of a file, in hexadecimal; empty where there is no file."""
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError:
        return ""


def write_stderr(line: str) -> None:
    """Writes a line to standard error; drops it where nobody reads for a second."""
    # Neither logging nor sys.stderr: a thread that hangs while it prints holds their locks, and a full pipe would hold up this one.
    poll = select.poll()
    poll.register(2, select.POLLOUT)
    with contextlib.suppress(OSError):
        if poll.poll(LOOK_S * 1000):
            os.write(2, f"{line}\n".encode())
