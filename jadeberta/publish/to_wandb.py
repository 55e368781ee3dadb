"""The clean run as a run of Weights & Biases: written whole as an offline directory, which `wandb sync` uploads.

A run of W&B cannot be gone back in, and lives of one run are not joined there. So each call writes all of it again, under the same id, and
a call that finds nothing new writes and uploads nothing.
"""

import base64
import errno
import importlib.util
import logging
import netrc
import os
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson

from jadeberta.errors import ConfigError, OutputError
from jadeberta.publish.clean_run import CleanRun, Point, read_note
from jadeberta.training.ledger import in_words
from jadeberta.utils.files import write_atomically

ADDRESS = "https://api.wandb.ai"
"""Where the service is, unless WANDB_BASE_URL names another."""
ANSWER_S = 20.0
"""Longest wait for the first answer of the service, seconds."""
UPLOAD_S = 6 * 3600.0
KEY_CHARACTERS = 1000
BLOCK_BYTES = 32768
FLUSH_S = 30.0
"""Longest wait until what was written is in the file."""
KEPT_VARIABLES = ("WANDB_API_KEY", "WANDB_BASE_URL", "WANDB_ENTITY")
"""Variables of W&B's client that mean the service and the user; others mean a run."""
BESIDE = ".jadeberta-new-"
"""Begin of the name of a directory that is not whole yet."""
REMEDY = "or write files with --out DIR and upload them later with 'wandb sync'"


def publish(run: CleanRun, out: Path | None, every: int, project: str) -> str:
    """Writes the offline directory of a run, and uploads it where `out` is None; returns what was done.

    Args:
        run: what to publish.
        out: directory that gets `wandb/offline-run-...`; None: to the service, by way of the user's cache.
        every: of `CleanRun.points`.
        project: of W&B.

    Raises:
        ConfigError: the package is missing, no key is known, or the service refuses it.
        OutputError: the service cannot be reached, or breaks off.
    """
    if importlib.util.find_spec("wandb") is None:
        raise ConfigError("--to wandb needs the package wandb, which is not installed; pip install 'jadeberta[wandb]'.")
    if out is None:
        address = os.environ.get("WANDB_BASE_URL", "").rstrip("/") or ADDRESS
        _require_welcome(address)
    folder = cache(run) if out is None else out
    place = folder / "wandb" / f"offline-run-{time.strftime('%Y%m%d_%H%M%S', time.gmtime(run.started))}-{run.id}"
    note = folder / "wandb" / f".jadeberta-{run.id}.json"
    digest = f"{project} {run.digest(every)}"
    found = read_note(note)
    done: dict[str, Any] = found if isinstance(found, dict) else {}
    if done.get("digest") != digest or not place.is_dir():
        # W&B logs into the directory too: on a full disk each line would be a traceback.
        logging.raiseExceptions, before = False, logging.raiseExceptions
        try:
            _write(run, place, every, project)
        except OSError:
            raise
        except Exception as e:  # its client is another process, which fails in many ways
            reason = " ".join(str(e).split())[:200]
            raise OutputError(f"{place}: W&B's client did not write it ({type(e).__name__}: {reason}); call again.") from None
        finally:
            logging.raiseExceptions = before
        done = {"digest": digest}
        write_atomically(note, orjson.dumps(done), durable=False)
    elif out is not None:
        return f"{place}: nothing is new"
    if out is not None:
        return f"{place}: written; 'wandb sync {place}' uploads it, again after each call"
    if done.get("uploaded") == address:
        return f"{address}: nothing is new"
    _upload(place, address)
    write_atomically(note, orjson.dumps({"digest": digest, "uploaded": address}), durable=False)
    return f"{address}: run {run.id} of project {project} is uploaded"


def cache(run: CleanRun) -> Path:
    """Returns the folder of the user's cache in which a run waits for its upload."""
    base = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")  # noqa: PTH111 - raises nothing without a home
    return Path(base) / "jadeberta" / "publish" / run.id


def _write(run: CleanRun, place: Path, every: int, project: str) -> None:
    """Writes the offline directory under another name, and puts it in the place of the old one when it is whole."""
    # Before the import: a mode, an id or a resume of the user's own runs would change this one.
    for name in [name for name in os.environ if name.startswith("WANDB_") and name not in KEPT_VARIABLES]:
        del os.environ[name]
    import wandb

    place.parent.mkdir(parents=True, exist_ok=True)
    for left in place.parent.glob(f"{BESIDE}*"):  # of a call that was killed; the lock says that no other is at work
        shutil.rmtree(left, ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix=BESIDE, dir=place.parent) as beside:
        settings = wandb.Settings(
            mode="offline", root_dir=beside, silent=True, console="off", save_code=False, disable_git=True, disable_code=True,
            x_disable_meta=True, x_disable_stats=True, x_disable_machine_info=True,
        )  # fmt: skip
        written = wandb.init(
            project=project, name=run.name, id=run.id, config=run.settings, tags=["jadeberta"], settings=settings, dir=beside
        )
        count = 0
        for step, values in _by_step(run, every):
            written.log(values, step=step)
            count += 1
        columns = ["time", "step", "event", "what"]
        rows = [[e.time, e.step, str(e.row.get("event")), in_words(e.row).encode(errors="replace").decode()] for e in run.events]
        written.log({"events": wandb.Table(columns=columns, data=rows)})
        for name, seconds in run.facts.result.parts().items():
            written.summary[f"hours/{name}"] = seconds / 3600
        written.summary["goodput"], written.summary["state"] = run.facts.result.goodput, run.facts.state
        written.finish()
        wandb.teardown()  # ends its process, which may still be writing
        (made,) = (Path(beside) / "wandb").glob("offline-run-*")
        _require_whole(made / f"run-{run.id}.wandb", max(1, count), FLUSH_S)  # the table of events goes into the last row
        # Two renames: for an instant there is none, and a call that ends in between is made good by the next.
        if place.exists():
            place.rename(Path(beside) / "old")
        made.rename(place)


def _require_whole(file: Path, count: int, patience: float = 0.0) -> None:
    """Raises OSError where a file lacks rows: W&B's process writes what the disk takes, and says nothing.

    Args:
        file: of W&B; behind 7 bytes it has LevelDB's log format, blocks of 32 KiB.
        count: rows of the history.
        patience: seconds to wait for W&B's process, which writes on for a moment after it was told to end.
    """
    end = time.monotonic() + patience
    while (found := _rows_in(file)) != count and time.monotonic() < end:
        time.sleep(0.2)
    if found != count:
        raise OSError(errno.EIO, f"{found} of {count} rows have arrived, as on a full disk", str(file))


def _rows_in(file: Path) -> int:
    """Rows of the history in a file of W&B."""
    from wandb.proto.wandb_internal_pb2 import Record

    content, place, record, found = file.read_bytes(), 7, b"", 0
    while place + 7 <= len(content):
        rest = BLOCK_BYTES - place % BLOCK_BYTES
        if rest < 7:
            place += rest
            continue
        length, kind = int.from_bytes(content[place + 4 : place + 6], "little"), content[place + 6]
        if place + 7 + length > len(content):
            break  # cut short
        record += content[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # a whole record, or the last part of one
            found += Record.FromString(record).WhichOneof("record_type") == "history"
            record = b""
    return found


def _by_step(run: CleanRun, every: int) -> Iterator[tuple[int, dict[str, float]]]:
    """Yields steps with all their values, the numbers rising: W&B takes a step once and drops what comes for an earlier one."""
    # Events come in the order of the ledger; those of the steps that a run went back to lie before others of a lower step.
    waiting = sorted(run.figures_of_events(), key=lambda point: point.step)
    place = 0

    def until(step: int) -> Iterator[Point]:
        nonlocal place
        while place < len(waiting) and waiting[place].step <= step:
            yield waiting[place]
            place += 1

    for point in run.points(every):
        early: dict[int, dict[str, float]] = {}
        for event in until(point.step):
            early.setdefault(event.step, {}).update(event.values)
        own = point.values | early.pop(point.step, {})
        yield from early.items()
        yield point.step, own
    late: dict[int, dict[str, float]] = {}
    for event in waiting[place:]:
        late.setdefault(event.step, {}).update(event.values)
    yield from late.items()


def _require_welcome(address: str) -> None:
    """Asks the service who the user is, as its client would wait for hours where it is not there."""
    key = os.environ.get("WANDB_API_KEY", "").strip() or _key_of_login(address)
    if not key:
        raise ConfigError(f"no key for {address} is known; run 'wandb login' or set WANDB_API_KEY, {REMEDY}.")
    if len(key) > KEY_CHARACTERS or not key.isascii() or not key.isprintable():
        raise ConfigError(f"the key for {address} holds characters that no key has; run 'wandb login' again, {REMEDY}.")
    if urllib.parse.urlsplit(address).scheme not in ("http", "https"):
        raise ConfigError(f"WANDB_BASE_URL is {address[:80]}, which is no address of a web service; correct it.")
    token = base64.b64encode(f"api:{key}".encode()).decode()
    question = urllib.request.Request(
        f"{address}/graphql",
        data=orjson.dumps({"query": "query { viewer { username } }"}),
        headers={"Content-Type": "application/json", "Authorization": f"Basic {token}"},
    )
    try:
        with urllib.request.urlopen(question, timeout=ANSWER_S) as answer:
            found = orjson.loads(answer.read(1 << 20))
    except urllib.error.HTTPError as e:
        if e.code in (401, 403):
            raise ConfigError(
                f"{address}: refuses the key ({e.code}); run 'wandb login' again or correct WANDB_API_KEY."
            ) from None
        raise OutputError(f"{address}: answers with status {e.code}; try again later, {REMEDY}.") from None
    except orjson.JSONDecodeError:
        raise OutputError(f"{address}: answers, but not as W&B does; correct WANDB_BASE_URL, {REMEDY}.") from None
    except (OSError, ValueError) as e:
        reason = getattr(e, "reason", None) or e
        raise OutputError(f"{address}: cannot be reached ({reason}); publish from a host with internet, {REMEDY}.") from None
    viewer = found.get("data", {}).get("viewer") if isinstance(found, dict) and isinstance(found.get("data"), dict) else None
    if not viewer:
        raise ConfigError(f"{address}: does not know the key; run 'wandb login' again or correct WANDB_API_KEY.")


def _key_of_login(address: str) -> str:
    """The key that `wandb login` has written into ~/.netrc; empty where there is none."""
    try:
        found = netrc.netrc(os.environ.get("NETRC")).authenticators(urllib.parse.urlsplit(address).hostname or "")
    except (OSError, netrc.NetrcParseError, ValueError):
        return ""
    return found[2] or "" if found else ""


def _upload(place: Path, address: str) -> None:
    command = [sys.executable, "-m", "wandb", "sync", "--yes", "--include-synced", str(place)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=UPLOAD_S, stdin=subprocess.DEVNULL)
    except subprocess.TimeoutExpired:
        raise OutputError(f"{address}: the upload did not end within {UPLOAD_S / 3600:.0f} hours; call again.") from None
    if done.returncode:
        lines = [line for line in (done.stdout + done.stderr).splitlines() if line.strip()]
        raise OutputError(
            f"{address}: 'wandb sync' failed ({(lines or ['no message'])[-1].strip()[:200]}); call again, {REMEDY}."
        )
