"""Stand-in for a segmentation library: words are runs of letters and of others; it dies at lines that name a way to die."""

import os
import re
import signal
import sys
import time
from collections.abc import Callable

WORDS = re.compile(r"[^\W\d]+|\d+|.")


def open_parser() -> Callable[[str], str]:
    if os.environ.get("ENGINE_IS_BROKEN"):
        raise RuntimeError("no dictionary")
    time.sleep(float(os.environ.get("ENGINE_LOADS_SECONDS", "0")))
    return parse


def parse(line: str) -> str:
    for name in ("SEGV", "ABRT", "KILL"):
        if name in line:
            os.kill(os.getpid(), getattr(signal, f"SIG{name}"))
    if "MEMORY" in line:
        taken = []
        while True:
            taken.append(bytearray(1 << 26))
    if "BADALLOC" in line:  # as C++ ends when memory is refused
        try:
            while True:
                taken = [bytearray(1 << 26) for _ in range(1000)]
        except MemoryError:
            os.abort()
    if "EXIT" in line:
        os._exit(0)
    if "QUIT" in line:
        sys.exit(0)
    if "HANG" in line:
        time.sleep(3600)
    if "PRINT" in line:
        os.write(1, b"\0" * 64)
    if "TWO" in line:
        return "one\ntwo"
    return " ".join(WORDS.findall(line))
