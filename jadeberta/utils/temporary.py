"""One temporary directory for a process and the loaders that it starts, which is removed however the process ends.

Loaders hand their tensors over sockets in a directory that `multiprocessing` makes for each of them. A loader ends by a signal when its
trainer ends, so nobody would remove it. Here all of them share their trainer's. That of a killed trainer is removed by the next one on
the host.
"""

import atexit
import multiprocessing
import os
import re
import shutil
import tempfile
from pathlib import Path

NAME = re.compile(r"jadeberta-(?P<space>\d+)-(?P<pid>\d+)-(?P<started>\d+)-")
"""Name space of process ids, process, and when it started, in ticks since boot: a process id alone comes again."""
_own: dict[int, Path] = {}
"""By process: a fork has the entry of its parent, and none of its own."""


def share_temporary_directory() -> Path:
    """Makes the directory of this process and tells `multiprocessing` to use it, here and in processes that are forked from now on."""
    pid = os.getpid()
    if pid not in _own:
        remove_abandoned()
        _own[pid] = Path(tempfile.mkdtemp(prefix=f"jadeberta-{_pid_space()}-{pid}-{_started(pid)}-"))
        atexit.register(remove_own)
    # The one place where multiprocessing.util.get_temp_dir looks before it makes a directory; a fork copies it.
    multiprocessing.current_process()._config["tempdir"] = str(_own[pid])  # type: ignore[attr-defined]
    return _own[pid]


def remove_own() -> None:
    """Removes the directory of this process, where it has one."""
    if (own := _own.pop(os.getpid(), None)) is not None:
        shutil.rmtree(own, ignore_errors=True)


def remove_abandoned(folder: Path | None = None) -> None:
    """Removes directories of this user's processes that are gone.

    Args:
        folder: where they are; None: the machine's directory for temporary files.
    """
    try:
        found = [
            path for path in (folder or Path(tempfile.gettempdir())).glob("jadeberta-*") if path.lstat().st_uid == os.getuid()
        ]
    except OSError:
        return
    for path in found:
        parts = NAME.match(path.name)
        # In a container ids of the host mean other processes: only those of this name space can be judged.
        if parts and parts["space"] == _pid_space() and _started(int(parts["pid"])) != parts["started"]:
            shutil.rmtree(path, ignore_errors=True)


def _pid_space() -> str:
    return str(Path("/proc/self/ns/pid").stat().st_ino)


def _started(pid: int) -> str:
    """When a process started, in ticks since boot; empty where it is gone."""
    try:
        # From the right: the name stands in brackets and may itself hold spaces and brackets. Field 22 of proc(5)'s stat.
        return Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()[19]
    except OSError:
        return ""
