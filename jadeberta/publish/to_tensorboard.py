"""The clean run as one event file of TensorBoard: what is there already is compared byte by byte, and only what is new is appended."""

import heapq
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import orjson
from tensorboard.compat.proto.event_pb2 import Event as TensorBoardEvent

from jadeberta.publish.clean_run import CleanRun, read_note
from jadeberta.training.ledger import in_words
from jadeberta.training.sinks.tensorboard import FILE_VERSION, encode, points, restart, text
from jadeberta.utils.files import atomic_file, write_atomically


def publish(run: CleanRun, out: Path, every: int) -> str:
    """Writes or goes on with the event file in a folder of `out` that has the run's name; returns what was done.

    Args:
        run: what to publish.
        out: directory for TensorBoard's --logdir.
        every: of `CleanRun.points`.

    Raises:
        OSError: it cannot be written.
    """
    folder = out / f"{run.name}-{run.id[:6]}"
    folder.mkdir(parents=True, exist_ok=True)
    note, digest = out / f".jadeberta-{run.id}.json", run.digest(every)
    files = sorted(folder.glob(f"events.out.tfevents.*.jadeberta-{run.id}.*"), key=lambda path: int(path.suffix[1:] or 0))
    if files and read_note(note) == [digest, files[-1].name, files[-1].stat().st_size]:
        return f"{folder}: nothing is new"
    if files:
        with open(files[-1], "r+b") as file:
            added = _append(file, run, every)
        if added is not None:
            _write_note(note, digest, files[-1])
            return f"{folder}: {added:,} bytes are new" if added else f"{folder}: nothing is new"
    number = 1 + int(files[-1].suffix[1:]) if files else 0
    # Under a new name: a viewer that has the old file open would go on with it.
    path = folder / f"events.out.tfevents.{int(run.started):010d}.jadeberta-{run.id}.{number}"
    with atomic_file(path) as new:
        for record in _records(run, every):
            new.write(record)
    for old in files:
        old.unlink(missing_ok=True)
    _write_note(note, digest, path)
    return f"{folder}: written" if not files else f"{folder}: written anew, as steps were undone or other settings given since"


def _write_note(path: Path, digest: str, file: Path) -> None:
    write_atomically(path, orjson.dumps([digest, file.name, file.stat().st_size]), durable=False)


def _append(file: BinaryIO, run: CleanRun, every: int) -> int | None:
    """Appends what a file lacks; returns the number of bytes, None where it holds something else than the beginning of the run."""
    added = 0
    for record in _records(run, every):
        there = file.read(len(record)) if not added else b""
        if there == record:
            continue
        if there and (len(there) == len(record) or not record.startswith(there)):
            return None
        if there:
            file.seek(-len(there), 1)  # an earlier call was ended within a record
        file.write(record)
        added += len(record)
    return added if added or not file.read(1) else None


def _records(run: CleanRun, every: int) -> Iterator[bytes]:
    """The records of the file, the same at each call as far as the run is the same: they carry the times of the run."""
    yield _record(TensorBoardEvent(file_version=FILE_VERSION), run.started)
    yield _record(restart(0), run.started)
    streams = (
        ((point.time, 0, points(point.step, point.values)) for point in run.points(every)),
        ((point.time, 1, points(point.step, point.values)) for point in run.figures_of_events()),
        ((e.time, 2, text(e.step, f"events/{e.row.get('event')}", in_words(e.row))) for e in run.events),
    )
    for time, _, event in heapq.merge(*streams, key=lambda item: item[:2]):
        yield _record(event, time)


def _record(event: TensorBoardEvent, time: float) -> bytes:
    event.wall_time = time
    return encode(event)
