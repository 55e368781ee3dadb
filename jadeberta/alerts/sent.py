"""What was sent about a run, kept beside it in `alerts/sent.json`, and the lock that lets one watcher at a time send.

Where the run directory takes nothing (its disk is full, or it is another user's), both are in this user's state directory: a full disk must
neither silence an alert nor repeat it.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import orjson

from jadeberta.alerts.events import Event, Sent
from jadeberta.errors import ConfigError, JadebertaError, OutputError
from jadeberta.utils.files import write_atomically
from jadeberta.utils.json_lines import finite
from jadeberta.utils.locks import DirectoryLock, holder_of

FOLDER, FILE = "alerts", "sent.json"
MOST_KEYS = 1000
"""Most keys that are kept: the newest."""
MOST_TRIES = 10
"""Passes that try to send an event; then it is given up."""
PATIENCE_S = 5.0
"""Time for which a watcher waits for another that is sending."""


def folders_of(run: Path) -> list[Path]:
    """Returns where to keep what was sent about a run: the folder beside it, and the one to take where that cannot be written."""
    home = Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local/state")
    # The whole path: runs of one name stay apart.
    name = "_".join(part for part in run.absolute().parts if part != "/")
    return [run / FOLDER, home / "jadeberta/watch" / name[-200:]]


@contextmanager
def only_watcher(folders: list[Path], patience: float = PATIENCE_S) -> Iterator[bool]:
    """Holds the first folder that can be written; gives False where another watcher holds it, who sends what there is.

    Args:
        folders: made where they are missing.
        patience: seconds to wait for the other.

    Raises:
        ConfigError: none can be written.
        OutputError: likewise.
    """
    lock = None
    for place, folder in enumerate(folders):
        try:
            lock = DirectoryLock(folder, "run directory", patience)
        except (OSError, JadebertaError) as e:
            if isinstance(e, ConfigError) and holder_of(folder) is not None:
                yield False
                return
            if place + 1 == len(folders):
                raise
        else:
            break
    try:
        yield True
    finally:
        if lock is not None:
            lock.release()


def read_sent(folders: list[Path]) -> Sent:
    """Reads what was sent, by all folders together; where no file is there or whole, nobody has watched before."""
    found = [sent for folder in folders if (sent := _read(folder / FILE)) is not None]
    if not found:
        return Sent()
    events: dict[str, float] = {}
    for sent in found:
        for key, at in sent.events:
            events[key] = max(at, events.get(key, at))
    return Sent(max(sent.rows or 0 for sent in found), tuple(events.items()), found[0].tries)


def _read(path: Path) -> Sent | None:
    try:
        found = orjson.loads(path.read_bytes())
    except (OSError, orjson.JSONDecodeError):
        return None
    if not isinstance(found, dict) or not isinstance(found.get("rows"), int):
        return None
    events, tries = found.get("events"), found.get("tries")
    times = {k: at for k in events if (at := finite(events, k)) is not None} if isinstance(events, dict) else {}
    counts = {k: int(n) for k in tries if (n := finite(tries, k)) is not None} if isinstance(tries, dict) else {}
    return Sent(max(0, found["rows"]), tuple(times.items()), tuple(counts.items()))


def write_sent(folders: list[Path], sent: Sent) -> None:
    """Writes what was sent into the first folder that takes it.

    Raises:
        OutputError: none does; the events may be sent again.
    """
    events = dict(sorted(sent.events, key=lambda one: one[1])[-MOST_KEYS:])
    content = {"rows": sent.rows, "events": events, "tries": dict(sent.tries[-MOST_KEYS:])}
    why = ""
    for folder in folders:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            write_atomically(folder / FILE, orjson.dumps(content, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE))
            return
        except OSError as e:
            why = why or f"{folder / FILE}: cannot be written ({e.strerror})"
    raise OutputError(f"{why}, nor {folders[-1] / FILE}, so the same alerts may come again. Make room.")


def after_try(sent: Sent, event: Event, now: float, ok: bool) -> tuple[Sent, bool]:
    """Returns what was sent after a try to send an event, and whether the event is over: sent, or given up.

    Args:
        sent: before.
        event: that was tried.
        now: unix time.
        ok: whether it was sent.
    """
    tries = dict(sent.tries)
    count = tries.pop(event.key, 0) + 1
    if not ok and count < MOST_TRIES:
        return replace(sent, tries=(*tries.items(), (event.key, count))), False
    if event.row is not None:
        return replace(sent, rows=event.row, tries=tuple(tries.items())), True
    return replace(sent, events=tuple({**dict(sent.events), event.key: now}.items()), tries=tuple(tries.items())), True


def refreshed(sent: Sent, held: list[str], rows: int, now: float) -> Sent:
    """Returns what was sent, with what holds now marked as seen now, and rows that are history marked as known.

    Args:
        sent: before.
        held: keys of what holds now.
        rows: hangs and roll-backs in the ledger.
        now: unix time.
    """
    known = dict(sent.events)
    return replace(
        sent,
        rows=rows if sent.rows is None else min(sent.rows, rows),
        events=tuple({**known, **{key: now for key in held if key in known}}.items()),
    )
