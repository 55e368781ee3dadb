"""The heartbeat of a rank: one memory page that the trainer writes and the watchdog reads, and the files both know by name.

A beat costs microseconds and waits for nothing, and a reader never takes half a beat. Imports nothing heavy: the watchdog reads this
file too.
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
"""In the order in which a rank goes through them; `save` and `eval` come after the step whose number they carry."""
HANG = b"H"
"""What the watchdog sends to a trainer that is to end."""
LOOK_S = 1.0
"""Between two looks at whether the watchdog is alive: a forked loader can hold the other end of the socket open."""
_PHASE_NUMBER = {phase: number for number, phase in enumerate(PHASES)}
_BEAT = struct.Struct("<QddqIB32s")
_CHECKED = _BEAT.size + 4
_SLOTS = (0, 128)
_KEEPER = struct.Struct("<i")
_KEEPER_AT = 256


class Heartbeat(NamedTuple):
    """What a trainer last said."""

    number: int
    """Beats since the process began."""
    since: float
    """CLOCK_MONOTONIC when it entered this phase and step."""
    section_since: float
    step: int
    beats: int
    """Beats in this phase and step: how far a rank is where its places have no known order."""
    phase: str
    section: str


def write_heartbeat(memory: mmap.mmap, beat: Heartbeat) -> None:
    """Writes into the older of two slots, each with a checksum: a trainer stopped in mid-write leaves the other whole."""
    body = _BEAT.pack(*beat[:5], _PHASE_NUMBER[beat.phase], beat.section.encode()[:32])
    at = _SLOTS[beat.number & 1]
    memory[at : at + _CHECKED] = body + zlib.crc32(body).to_bytes(4, "little")


def read_heartbeat(memory: mmap.mmap) -> Heartbeat | None:
    """The newest whole beat; None where both slots were being written."""
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


def keeper_thread(memory: mmap.mmap) -> int:
    """Kernel's number of the trainer's thread that listens to the watchdog; 0 before there is one."""
    return _KEEPER.unpack_from(memory, _KEEPER_AT)[0]


def hang_path(run_dir: Path) -> Path:
    """Where the ranks tell each other that the job hangs."""
    return run_dir / "heartbeat" / "hang.json"


def record_path(run_dir: Path, rank: int) -> Path:
    """Where a rank's last beat can be read by all."""
    return run_dir / "heartbeat" / f"rank-{rank:05d}.json"


def stacks_path(run_dir: Path, rank: int) -> Path:
    """Where a rank's stacks go."""
    return run_dir / "logs" / f"stacks-rank-{rank:05d}.txt"


def digest(path: Path) -> str:
    """Of a file's bytes; empty where there is none."""
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError:
        return ""


def say(line: str) -> None:
    """Not through sys.stderr, whose lock a thread that hangs in a print may hold; nor at all where nobody takes it."""
    poll = select.poll()
    poll.register(2, select.POLLOUT)
    with contextlib.suppress(OSError):
        if poll.poll(LOOK_S * 1000):
            os.write(2, f"{line}\n".encode())
