"""Child process in which a library works (MeCab, the parser of HTML), so that its crash is not the stage's; `segmenters/in_child.py`
starts it.

Lines and answers are in files in memory, joined by newlines; the pipes carry only their size in bytes, as 8 bytes. A third file holds the
number of the line at work: it tells the parent which line a crash belongs to. Knows no library and no segmenter.
"""

import contextlib
import importlib
import mmap
import os
import resource
import sys
from collections.abc import Callable

from jadeberta.utils.processes import end_with_parent

SIZE_BYTES = 8
READY = bytes(SIZE_BYTES)
"""First reply, before any request: the library is loaded."""


def serve(parse: Callable[[str], str], requests: int, answers: int, progress: int, replies: int) -> None:
    """Answers requests until the pipe on standard input ends.

    Args:
        parse: returns the words of a line, with spaces between them.
        requests: file of the lines.
        answers: file that the answers are written to.
        progress: file of 8 bytes for the number of the line at work.
        replies: pipe that the size of the answers is written to.
    """
    at_work = memoryview(mmap.mmap(progress, SIZE_BYTES)).cast("Q")
    os.write(replies, READY)
    while size := os.read(0, SIZE_BYTES):
        lines = os.pread(requests, int.from_bytes(size), 0).decode().split("\n")
        found = []
        for number, line in enumerate(lines):
            at_work[0] = number
            found.append(parse(line).replace("\n", " "))
        content = "\n".join(found).encode()
        os.ftruncate(answers, 0)
        written = 0
        while written < len(content):
            written += os.pwrite(answers, content[written:], written)
        os.write(replies, len(content).to_bytes(SIZE_BYTES))


def main(parent: int, memory_mib: int, engine: str, requests: int, answers: int, progress: int) -> None:
    """Loads the library under the limits and serves its parent.

    Args:
        parent: process that started this one, which ends with it.
        memory_mib: limit of the address space, in MiB.
        engine: function that loads the library and returns `parse`, as MODULE:FUNCTION.
        requests: see `serve`.
        answers: see `serve`.
        progress: see `serve`.
    """
    end_with_parent(parent)
    hard = resource.getrlimit(resource.RLIMIT_AS)[1]
    # A limit of the host that is lower stays: to raise it is not allowed.
    memory = memory_mib << 20 if hard == resource.RLIM_INFINITY else min(memory_mib << 20, hard)
    resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    # Where the host has no memory left, the kernel ends this process and not the stage.
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w") as f:
        f.write("1000")
    # What the library prints must not be taken for an answer.
    replies = os.dup(1)
    os.dup2(2, 1)
    module, _, function = engine.partition(":")
    serve(getattr(importlib.import_module(module), function)(), requests, answers, progress, replies)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], *map(int, sys.argv[4:]))
