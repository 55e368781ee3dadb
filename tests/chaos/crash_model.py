"""What a disk may hold after a crash: file-system calls are recorded from a true process and replayed up to any point.

The model is the one of POSIX, no kinder: a file's content is safe once the file was flushed (fsync), a name (of a new file, a rename, a
removal) once the directory that holds it was flushed. Whatever was not flushed may be lost, each piece by itself; a rename is there or
not, never half. Knows files and directories, nothing of checkpoints.
"""

import os
import random
import re
import subprocess
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

CALLS = (
    "?openat,?open,?creat,?write,?pwrite64,?writev,?pwritev,?sendfile,?copy_file_range,?fsync,?fdatasync,?sync_file_range,?truncate,"
    "?ftruncate,?fallocate,?mkdir,?mkdirat,?rename,?renameat,?renameat2,?unlink,?unlinkat,?rmdir,?link,?linkat,?symlink,?symlinkat"
)
"""All that change or flush files; the question mark is for those that some processors do not have."""
LINE = re.compile(r"(?P<began>\d+\.\d+) (?P<call>\w+)\((?P<arguments>.*)\)\s+= (?P<result>-?\d+).* <(?P<took>\d+\.\d+)>")
HEXADECIMAL = re.compile(r"\\x([0-9a-f]{2})")

Tree = dict[str, bytes | None]
"""Content of every file by its path, None for a directory; a directory stands before what is in it."""


@dataclass(frozen=True)
class Operation:
    """One call that changed or flushed something, or an answer of the recorded process."""

    kind: str
    """create, write, truncate, sync, mkdir, rename, unlink, rmdir or answer"""
    path: str = ""
    target: str = ""
    """New path of a rename."""
    data: bytes = b""
    """Of a write or an answer."""
    offset: int | None = None
    """Of a write that names one; length of a truncate."""


def strace_refuses() -> str:
    """Why calls cannot be recorded here; empty where they can."""
    try:
        subprocess.run(["strace", "-D", "-o", "/dev/null", "true"], check=True, capture_output=True, timeout=20)
    except FileNotFoundError:
        return "strace is not installed"
    except (subprocess.SubprocessError, OSError) as e:
        return f"strace may not trace here: {getattr(e, 'stderr', b'') or e}"
    return ""


def tracing_interpreter(python: str, directory: Path) -> Path:
    """An executable that runs Python as its own process, with every thread's calls written into a directory."""
    directory.mkdir()
    script = directory.with_suffix(".sh")
    options = f"-D -ff -y -xx -s 4194304 -ttt -T -e trace={CALLS} -o {directory}/calls"
    script.write_text(f'#!/bin/sh\nexec strace {options} {python} "$@"\n')
    script.chmod(0o755)
    return script


def read_recording(directory: Path, root: Path) -> list[Operation]:
    """The operations under a directory, in the order in which they were done; waits for the recorded processes to end."""
    deadline = time.monotonic() + 30
    while not (texts := [p.read_text() for p in directory.iterdir()]) or not all("+++" in text for text in texts):
        assert time.monotonic() < deadline, "the recorded process does not end"
        time.sleep(0.05)
    found = []
    for match in filter(None, map(LINE.match, (line for text in texts for line in text.splitlines()))):
        if int(match["result"]) >= 0 and (operation := _operation(match, root)) is not None:
            found.append((float(match["began"]) + float(match["took"]), operation))
    return [operation for _, operation in sorted(found, key=lambda pair: pair[0])]


def _operation(match: re.Match, root: Path) -> Operation | None:
    def text(argument: str) -> bytes:
        return bytes(int(pair, 16) for pair in HEXADECIMAL.findall(argument))

    def path(*arguments: str) -> str:
        full = Path(*(os.fsdecode(text(argument)) for argument in arguments))
        return str(full.relative_to(root)) if full.is_relative_to(root) else ""

    call, given, result = match["call"], match["arguments"].split(", "), int(match["result"])
    if call in ("write", "pwrite64") and (data := text(given[1])).startswith(b'{"kind"'):
        return Operation("answer", data=data)
    at = path(*given[:2]) if call in ("openat", "mkdirat", "unlinkat", "renameat", "renameat2") else path(given[0])
    if not at:
        return None
    if call in ("open", "openat", "creat"):
        flags = given[-2 if "O_CREAT" in match["arguments"] else -1]
        if "O_CREAT" not in flags and "O_TRUNC" not in flags:
            return None
        if "O_TRUNC" in flags:
            return Operation("create", at)
    elif call in ("write", "pwrite64"):
        return Operation("write", at, data=text(given[1])[:result], offset=int(given[3]) if call == "pwrite64" else None)
    elif call in ("fsync", "fdatasync"):
        return Operation("sync", at)
    elif call == "ftruncate":
        return Operation("truncate", at, offset=int(given[1]))
    elif call in ("mkdir", "mkdirat", "rmdir", "unlink"):
        return Operation(call.removesuffix("at"), at)
    elif call == "unlinkat":
        return Operation("rmdir" if "AT_REMOVEDIR" in given[2] else "unlink", at)
    elif call.startswith("rename"):
        return Operation("rename", at, target=path(given[1]) if call == "rename" else path(*given[2:4]))
    raise ValueError(f"the model knows no {match['call']}({match['arguments'][:200]})")


@dataclass
class _Change:
    """Some names of one directory or two, given to something new or to nothing, at once."""

    names: list[tuple[int, str, int | None]]
    unflushed: set[int] = field(default_factory=set)


class Fate:
    """What a crash does to that which was not flushed: all of it reached the disk."""

    def keeps_name(self) -> bool:
        return True

    def content(self, flushed: bytes, written: bytes) -> bytes:
        """Of a file whose last writes were not flushed."""
        return written


class Lost(Fate):
    """Nothing of it did."""

    def keeps_name(self) -> bool:
        return False

    def content(self, flushed: bytes, written: bytes) -> bytes:
        return flushed


class Drawn(Fate):
    """Each piece by itself did or did not; a file may be cut or hold zeros from some place on."""

    def __init__(self, draw: random.Random) -> None:
        self.draw, self.luck = draw, draw.choice([0.3, 0.6, 0.9])

    def keeps_name(self) -> bool:
        return self.draw.random() < self.luck

    def content(self, flushed: bytes, written: bytes) -> bytes:
        place = self.draw.randrange(len(written) + 1)
        zeros = bytes(len(written) - place)
        return self.draw.choice([flushed, written, written[:place], written[:place] + zeros, bytes(len(written))])


class Disk:
    """A file system that remembers what of it was flushed. Directories and files are numbers; the root is 0."""

    def __init__(self, tree: Tree) -> None:
        """`tree` is on the disk to begin with."""
        self._names: dict[int, dict[str, int]] = {0: {}}
        self._written: dict[int, bytes] = {}
        self._position: dict[int, int] = {}
        for path, content in tree.items():
            parent, name = self._place(path)
            self._names[parent][name] = number = self._new(content)
            if content is not None:
                self._written[number] = content
        self._flushed = dict(self._written)
        self._first = {number: dict(names) for number, names in self._names.items()}
        self._changes: list[_Change] = []

    def apply(self, operation: Operation) -> None:
        """Does one operation."""
        match operation.kind:
            case "create":
                parent, name = self._place(operation.path)
                if name not in self._names[parent]:
                    self._rename([(parent, name, self._new(b""))])
                number = self._names[parent][name]
                self._written[number], self._position[number] = b"", 0
            case "write":
                number = self._number(operation.path)
                start = self._position[number] if operation.offset is None else operation.offset
                content, end = self._written[number].ljust(start, b"\0"), start + len(operation.data)
                self._written[number] = content[:start] + operation.data + content[end:]
                self._position[number] = end if operation.offset is None else self._position[number]
            case "truncate":
                number, length = self._number(operation.path), operation.offset or 0
                self._written[number] = self._written[number][:length].ljust(length, b"\0")
            case "sync":
                number = self._number(operation.path)
                if number in self._written:
                    self._flushed[number] = self._written[number]
                for change in self._changes:
                    change.unflushed.discard(number)
            case "mkdir":
                self._rename([(*self._place(operation.path), self._new(None))])
            case "unlink" | "rmdir":
                self._rename([(*self._place(operation.path), None)])
            case "rename":
                number = self._number(operation.path)
                self._rename([(*self._place(operation.path), None), (*self._place(operation.target), number)])

    def after_crash(self, fate: Fate) -> Tree:
        """What is found when the machine is back."""
        names: dict[int, dict[str, int | None]] = {number: {**entries} for number, entries in self._first.items()}
        for change in self._changes:
            if not change.unflushed or fate.keeps_name():
                for parent, name, number in change.names:
                    names.setdefault(parent, {})[name] = number
        tree: Tree = {}

        def walk(directory: int, path: str) -> None:
            for name, number in sorted(names.get(directory, {}).items()):
                if number is None:
                    continue
                here = f"{path}{name}"
                if number in self._names:
                    tree[here] = None
                    walk(number, f"{here}/")
                    continue
                flushed, written = self._flushed.get(number, b""), self._written[number]
                tree[here] = written if flushed == written else fate.content(flushed, written)

        walk(0, "")
        return tree

    def _new(self, content: bytes | None) -> int:
        number = len(self._names) + len(self._written)
        if content is None:
            self._names[number] = {}
        else:
            self._written[number] = b""
        return number

    def _rename(self, names: list[tuple[int, str, int | None]]) -> None:
        for parent, name, number in names:
            if number is None:
                del self._names[parent][name]
            else:
                self._names[parent][name] = number
        self._changes.append(_Change(names, {parent for parent, _, _ in names}))

    def _number(self, path: str) -> int:
        number = 0
        for name in Path(path).parts:
            number = self._names[number][name]
        return number

    def _place(self, path: str) -> tuple[int, str]:
        return self._number(str(Path(path).parent)), Path(path).name


def read_tree(root: Path) -> Tree:
    return {str(p.relative_to(root)): None if p.is_dir() else p.read_bytes() for p in sorted(root.rglob("*"))}


def write_tree(tree: Tree, root: Path) -> None:
    root.mkdir()
    for path, content in tree.items():
        if content is None:
            (root / path).mkdir()
        else:
            (root / path).write_bytes(content)


def crashes(before: Tree, operations: Iterable[Operation], draws: int, seed: int, see: Callable[[int, Tree], None]) -> None:
    """Calls `see(operations done, tree)` for every point of a recording and every fate of what was not flushed by then."""
    disk, draw = Disk(before), random.Random(seed)
    for done, operation in enumerate([None, *operations]):
        if operation is not None:
            disk.apply(operation)
        for fate in (Fate(), Lost(), *(Drawn(draw) for _ in range(draws))):
            see(done, disk.after_crash(fate))
