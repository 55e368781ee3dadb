"""Asks the child process that parses HTML (`page_engine.py`), one page at a time.

Promises that a page at which the parser crashes, fills memory or takes too long costs that page alone. One that crashes is tried once more:
the kernel may have ended the child for the memory that others took.
"""

import logging
import os
import signal
import weakref
from base64 import b64decode, b64encode
from typing import Any

import orjson

from jadeberta.shards import ConfigError
from preprocess.readers.html.page_engine import UNPARSABLE, seconds_for
from preprocess.segmenters.base import Rejected
from preprocess.segmenters.in_child import EngineProcess

MEMORY_MIB = 2048
"""Limit of the child's address space; the largest ordinary page takes a quarter of it."""
PATIENCE = 300.0
"""Half of the seconds that a page may take on the clock, where the child does not run at all."""
_TIME_IS_UP = f"signal {int(signal.SIGVTALRM)} "

log = logging.getLogger(__name__)


class HtmlReader:
    """The child of this process, started when it is first asked."""

    engine = "preprocess.readers.html.page_engine:open_parser"
    _process: EngineProcess | None = None

    def web_page(self, content: bytes, charset: str, place: str) -> tuple[str, str, str]:
        """Returns (why a page is dropped, title, main text).

        Args:
            content: the page.
            charset: named by the server; empty: none.
            place: of the page, for the log.

        Raises:
            ConfigError: the parser does not work at all.
        """
        reason, title, text = self._ask("web", content, charset, place) or (UNPARSABLE, "", "")
        return reason, title, text

    def article(self, html: str, place: str) -> tuple[str, str, dict[str, Any] | None]:
        """Returns (why an article of Wikipedia is dropped, text, `Losses.counts`); see `web_page`."""
        reason, text, losses = self._ask("article", html.encode(), "utf-8", place) or (UNPARSABLE, "", None)
        return reason, text, losses

    def close(self) -> None:
        """Ends the child; the next page starts another one."""
        process, self._process = self._process, None
        if process is not None:
            self._finalizer.detach()
            process.close()

    def _ask(self, kind: str, content: bytes, charset: str, place: str) -> Any:
        """Returns the answer; None where there is none."""
        line = _request(kind, content, charset)
        detail = ""
        for _ in range(2):
            answer = self._answer(line)
            if isinstance(answer, str):
                return orjson.loads(b64decode(answer))
            detail = answer.detail
            if _TIME_IS_UP in detail:
                detail = f"more than {seconds_for(len(content)):.0f} s of processor time"
                break
        log.warning("%s: dropped as %s: the parser of HTML failed at it (%s)", place, UNPARSABLE, detail)
        return None

    def _answer(self, line: str) -> str | Rejected:
        # A process made by fork must not share its parent's child.
        if self._process is None or self._process.owner != os.getpid():
            self._start()
        assert self._process is not None
        found: Any = None
        try:
            found = self._process.ask([line], PATIENCE)
        finally:
            # After an interruption too: a late answer must not be taken for the next one.
            if not isinstance(found, list):
                self.close()
        return str(found[0]) if isinstance(found, list) else found

    def _start(self) -> None:
        process = EngineProcess(self.engine, MEMORY_MIB)
        found = process.ask([_request("article", b"<p>", "utf-8")], PATIENCE)
        if isinstance(found, Rejected):
            process.close()
            raise ConfigError(
                f"resiliparse, which parses HTML, does not work ({found.detail}). Run pip install 'jadeberta[web]' again, and let "
                f"each rank have a second process of {MEMORY_MIB} MiB of address space."
            )
        self._process, self._finalizer = process, weakref.finalize(self, process.close)


def _request(kind: str, content: bytes, charset: str) -> str:
    return orjson.dumps([kind, b64encode(content).decode(), charset]).decode()


READER = HtmlReader()
"""The one of this process."""
