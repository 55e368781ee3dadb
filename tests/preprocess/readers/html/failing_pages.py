"""The engine of pages, with words at which it dies, and little time for a page."""

import os
import signal
from base64 import b64decode
from collections.abc import Callable
from pathlib import Path

import orjson

from preprocess.readers.html import page_engine

SIGNALS = {"SEGV": signal.SIGSEGV, "KILL": signal.SIGKILL}


def open_parser() -> Callable[[str], str]:
    page_engine.PAGE_SECONDS = 0.3
    parse = page_engine.open_parser()

    def fail(request: str) -> str:
        line = b64decode(orjson.loads(request)[1]).decode()
        for word, number in SIGNALS.items():
            if word in line:
                os.kill(os.getpid(), number)
        if "MEMORY" in line:
            bytes(2**40)
        if "ONCE" in line:
            flag = Path(os.environ["FAILED_ONCE"])
            if not flag.exists():
                flag.touch()
                os.kill(os.getpid(), signal.SIGKILL)
        return parse(request)

    return fail


def broken() -> Callable[[str], str]:
    raise OSError("no shared object")
