"""Ranks without the cost of their imports: a process that has loaded everything once forks a child for each command line.

`python -m jadeberta pretrain` imports for five CPU-seconds before it looks at its recipe, and the tests start hundreds of ranks. A child
has its own environment, working directory, output and arguments, default signal handlers, and ends as the interpreter ends. Two things
differ from the real command: /proc shows the server's command line, and libraries read the variables of their import from the server.
Tests of the command line itself, of launchers and of Slurm start the real one.
"""

import array
import atexit
import contextlib
import ctypes
import functools
import gc
import importlib
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LARGEST_REQUEST = 1 << 17
MOUNTS, CLONE_NEWNS = "/proc/thread-self/ns/mnt", 0x20000


class ForkedProcess:
    """What `subprocess.Popen` offers, for a child of the server."""

    def __init__(self, server: "ForkServer", pid: int) -> None:
        self._server, self.pid = server, pid
        self.returncode: int | None = None

    def poll(self) -> int | None:
        """Exit status, negative for a signal; None while it runs."""
        self._server.collect(0)
        if self.returncode is None:
            self.returncode = self._server.ended.pop(self.pid, None)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Waits for the end; the status. Raises subprocess.TimeoutExpired."""
        end = None if timeout is None else time.monotonic() + timeout
        while (status := self.poll()) is None:
            left = None if end is None else end - time.monotonic()
            if left is not None and left <= 0:
                raise subprocess.TimeoutExpired(f"process {self.pid}", timeout or 0)
            self._server.collect(left)
        return status

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)


class ForkServer:
    """The tests' end of a server."""

    def __init__(self, preload: str = "") -> None:
        """`preload`: a library that stands before the calls of every child (LD_PRELOAD)."""
        self.ended: dict[int, int] = {}
        """Statuses of children that nobody has asked for yet."""
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        env = os.environ | {"OMP_NUM_THREADS": "1"} | ({"LD_PRELOAD": preload} if preload else {})
        command = [sys.executable, "-m", "tests.fork_server", str(theirs.fileno())]
        # In a session of its own, so that a signal to the tests' process group reaches no child: those end with the socket.
        self._process = subprocess.Popen(
            command,
            env=env,
            cwd=ROOT,
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            start_new_session=True,
        )
        theirs.close()

    def start(self, arguments: list[str], env: dict[str, str], output: int, errors: int, code: str = "") -> ForkedProcess:
        """Forks a child that runs `python -m jadeberta ARGUMENTS`, or `python -c CODE ARGUMENTS`.

        Args:
            arguments: of the command line.
            env: all variables of the child.
            output: open file for its standard output.
            errors: open file for its standard error.
            code: a program in place of jadeberta's.
        """
        request = json.dumps({"arguments": arguments, "env": env, "code": code}).encode()
        assert len(request) < LARGEST_REQUEST
        # A test that has mounted something where only it sees it means its ranks too.
        namespace = os.open(MOUNTS, os.O_RDONLY)
        files = array.array("i", [output, errors, namespace])
        self._socket.sendmsg([request], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, files)])
        os.close(namespace)
        while (pid := self.collect(None)) is None:
            pass
        return ForkedProcess(self, pid)

    def collect(self, timeout: float | None) -> int | None:
        """Takes one message of the server; the process that it has started, if that is what it says."""
        if not select.select([self._socket], [], [], timeout)[0]:
            return None
        message = self._socket.recv(LARGEST_REQUEST)
        assert message, "the fork server has ended"
        told = json.loads(message)
        if "status" not in told:
            return told["pid"]
        self.ended[told["pid"]] = told["status"]
        return None

    def close(self) -> None:
        """Ends the server, which kills the children that still run."""
        self._socket.close()
        self._process.wait()


@functools.cache
def fork_server(preload: str) -> ForkServer:
    """The server of this process of the tests with a library or none; starts it when it is first needed."""
    server = ForkServer(preload)
    atexit.register(server.close)
    return server


def run_forked(*arguments: object, timeout: float = 300, **env: str) -> subprocess.CompletedProcess[str]:
    """Runs `jadeberta ARGUMENTS` with some variables to its end, as subprocess.run(..., capture_output=True, text=True) would."""
    words = [str(argument) for argument in arguments]
    with tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as errors:
        process = fork_server("").start(words, os.environ | env, output.fileno(), errors.fileno())
        try:
            status = process.wait(timeout)
        finally:
            process.kill()
        for file in (output, errors):
            file.seek(0)
        return subprocess.CompletedProcess(words, status, output.read().decode(), errors.read().decode())


NEEDED = (
    *(f"jadeberta.{name}" for name in ("cli", "pretrain", "evaluation.mlm", "release.export", "checkpoint.cli", "preflight.cli")),
    "jadeberta.finetune.cli",
    # What these import when they are first used.
    *("deepspeed", "deepspeed.compile.backend", "functorch.compile", "networkx", "torch.utils.tensorboard"),
    *("deepspeed.module_inject.auto_ep_layer", "deepspeed.ops.op_builder.all_ops", "deepspeed.runtime.zero.muon.muon_optimizer"),
    *("jsonargparse", "docstring_parser", "setuptools", "distutils.ccompiler"),
)
"""All that some verb of jadeberta imports."""


def load_everything() -> None:
    for name in NEEDED:
        importlib.import_module(name)
    import transformers

    _ = transformers.DebertaV2ForMaskedLM, transformers.AutoTokenizer  # they are imported when they are named


def serve(control: socket.socket) -> tuple[dict, list[int]]:
    """Forks a child for each request and reports the ends of children; returns in a child alone, with its request and files."""
    waker, wake = socket.socketpair()
    for end in (waker, wake):
        end.setblocking(False)
    signal.set_wakeup_fd(wake.fileno())
    signal.signal(signal.SIGCHLD, lambda number, frame: None)  # the byte in the socket is what counts
    alive: set[int] = set()
    while True:
        ready, _, _ = select.select([control, waker], [], [])
        if waker in ready:
            waker.recv(4096)
            while alive and (found := os.waitpid(-1, os.WNOHANG))[0]:
                alive.discard(found[0])
                control.send(json.dumps({"pid": found[0], "status": os.waitstatus_to_exitcode(found[1])}).encode())
        if control not in ready:
            continue
        message, files, _, _ = socket.recv_fds(control, LARGEST_REQUEST, 3)
        if not message:
            for pid in alive:
                os.kill(pid, signal.SIGKILL)
            os._exit(0)
        if (pid := os.fork()) == 0:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            for end in (control, waker, wake):
                end.close()
            return json.loads(message), files
        alive.add(pid)
        for file in files:
            os.close(file)
        control.send(json.dumps({"pid": pid}).encode())


def become(request: dict, files: list[int]) -> None:
    """Makes a child look as if it had been started by its command line."""
    import numpy as np

    *streams, namespace = files
    for target, file in zip((1, 2), streams, strict=True):
        os.dup2(file, target)
        os.close(file)
    if not os.path.sameopenfile(namespace, own := os.open(MOUNTS, os.O_RDONLY)):
        libc = ctypes.CDLL(None, use_errno=True)
        assert libc.setns(namespace, CLONE_NEWNS) == 0, os.strerror(ctypes.get_errno())
        os.chdir(ROOT)  # the other namespace's root is the working directory now
    os.close(own)
    os.close(namespace)
    os.environ.clear()
    os.environ.update(request["env"])
    sys.argv[:] = ["-c" if request["code"] else "jadeberta", *request["arguments"]]
    np.random.seed()  # a new process has numbers of its own; Python's own module sees to itself
    atexit.register(gc.unfreeze)  # else extension modules complain at the end that their objects are still there


def main() -> None:
    control = socket.socket(fileno=int(sys.argv[1]))
    load_everything()
    assert len(os.listdir("/proc/self/task")) == 1, "a thread of an imported library would be missing in every child"  # noqa: PTH208
    gc.collect()
    gc.freeze()  # a collection in a child would write into, and so copy, every page of the imported modules
    request, files = serve(control)
    become(request, files)
    if request["code"]:
        exec(compile(request["code"], "<string>", "exec"), {"__name__": "__main__", "__builtins__": __builtins__})
    else:
        runpy.run_module("jadeberta", run_name="__main__", alter_sys=False)


if __name__ == "__main__":
    main()
