"""A headless Chromium that a test drives over two pipes, by its DevTools protocol: no port, no library."""

import contextlib
import fcntl
import json
import os
import select
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
PATIENCE_S = 60.0
"""Seconds that the browser may be silent on a busy machine."""


class Browser:
    """One page in a headless Chromium."""

    def __init__(self, reader: int, writer: int) -> None:
        self._reader, self._writer = reader, writer
        self._number, self._rest, self._session = 0, b"", ""
        self.requests: list[str] = []
        """Addresses that the page has asked for."""
        self.messages: list[str] = []
        """Errors and warnings of the console, and exceptions."""
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Calls a method of the protocol and returns its result; events that come meanwhile are kept."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        os.write(self._writer, json.dumps(message | ({"sessionId": self._session} if self._session else {})).encode() + b"\0")
        while True:
            answer = self._next()
            if answer.get("id") == self._number:
                assert "error" not in answer, answer
                return answer["result"]

    def _next(self) -> dict[str, Any]:
        while b"\0" not in self._rest:
            assert select.select([self._reader], [], [], PATIENCE_S)[0], "the browser does not answer"
            got = os.read(self._reader, 1 << 20)
            assert got, "the browser has ended"
            self._rest += got
        message, _, self._rest = self._rest.partition(b"\0")
        found = json.loads(message)
        match found.get("method"):
            case "Network.requestWillBeSent":
                self.requests.append(found["params"]["request"]["url"])
            case "Runtime.exceptionThrown":
                self.messages.append(str(found["params"]["exceptionDetails"]))
            case "Runtime.consoleAPICalled" if found["params"]["type"] in ("error", "warning", "assert"):
                self.messages.append(str(found["params"]["args"]))
            case "Log.entryAdded" if found["params"]["entry"]["level"] in ("error", "warning"):
                self.messages.append(found["params"]["entry"]["text"])
        return found

    def open(self, path: Path, width: int = 1280, height: int = 1000) -> None:
        """Opens a file and waits until its scripts have run."""
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
        self.call("Page.navigate", url=path.as_uri())
        end = time.monotonic() + PATIENCE_S
        while self.ask("location.protocol + document.readyState") != "file:complete":
            assert time.monotonic() < end
            time.sleep(0.05)  # the page loads in another process
        self.settle()

    def settle(self) -> None:
        """Waits until the browser has drawn two frames and run what was put off."""
        self.ask("new Promise(done => setTimeout(() => requestAnimationFrame(() => requestAnimationFrame(() => done(1))), 30))")

    def ask(self, expression: str) -> Any:
        """Value of an expression in the page."""
        found = self.call("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def mouse(self, kind: str, x: float, y: float, **more: Any) -> None:
        """Sends an event of the mouse: mouseMoved, mousePressed or mouseReleased."""
        self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, **more)

    def key(self, name: str) -> None:
        """Presses a key and lets it go."""
        text = {"text": name} if len(name) == 1 else {}
        self.call("Input.dispatchKeyEvent", type="keyDown", key=name, code=name, **text)
        self.call("Input.dispatchKeyEvent", type="keyUp", key=name, code=name)


@contextlib.contextmanager
def browser(directory: Path) -> Iterator[Browser]:
    """A browser with a profile in a directory; it is ended with the block."""
    (commands, writer), (reader, answers) = os.pipe(), os.pipe()
    # Numbers out of the way of 3 and 4, one of which could be another's.
    theirs = [fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, 20) for descriptor in (commands, answers)]
    os.close(commands)
    os.close(answers)
    commands, answers = theirs
    # Chromium reads commands from descriptor 3 and writes answers to 4.
    shell = f'exec 3<&{commands} 4>&{answers}; exec "$0" "$@"'
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-dev-shm-usage"]
    options += ["--disable-background-networking", "--remote-debugging-pipe", f"--user-data-dir={directory / 'profile'}"]
    process = subprocess.Popen(
        ["bash", "-c", shell, str(CHROMIUM), *options],
        pass_fds=(commands, answers), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip
    os.close(commands)
    os.close(answers)
    try:
        yield Browser(reader, writer)
    finally:
        os.close(writer)
        os.close(reader)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # its own children too; the profile is a folder of the test
        process.wait()
