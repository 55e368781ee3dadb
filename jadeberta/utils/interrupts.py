"""How a program begins and ends: Ctrl-C while it still loads its modules, and standard streams that are closed or full.

Only the standard library's smallest modules are imported here: a Ctrl-C before this file has been read meets Python's own answer.
"""

import errno
import os
import signal
import sys
from collections.abc import Callable
from typing import NoReturn

INTERRUPTED = 128 + signal.SIGINT
"""Exit status after Ctrl-C, as a shell reports it."""
RANK_VARIABLES = ("RANK", "OMPI_COMM_WORLD_RANK", "SLURM_PROCID", "PMI_RANK")
"""Each launcher's variable with the number of a process; the first alone speaks for all."""


def run_interruptible(load: Callable[[], Callable[[], None]]) -> None:
    """Loads a program and runs it.

    While it loads, Ctrl-C ends the process at once: a KeyboardInterrupt in the middle of an import may also be taken for a broken
    library, or be lost. While it runs, Ctrl-C is the KeyboardInterrupt that it expects. Where the caller had SIGINT ignored, as for a
    command in the background, it stays ignored.

    What the program has printed is flushed at its end. Where that fails, status 0 becomes 1: the output is lost.

    Args:
        load: imports the program and returns the function that runs it.
    """
    open_standard_streams()
    answers = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if answers:
        signal.signal(signal.SIGINT, _end)
    run = load()
    if answers:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    status: str | int | None = 0
    try:
        run()
    except KeyboardInterrupt:
        _end()
    except SystemExit as e:
        status = e.code
    finally:
        if answers:
            # Python's own last steps, which wait for threads, would answer with a traceback.
            signal.signal(signal.SIGINT, signal.SIG_DFL)
    is_printed = _flush()
    sys.exit(status if status else 0 if is_printed else 1)


def open_standard_streams() -> None:
    """Opens those of standard input, output and error that the caller has closed, on the null device.

    Otherwise the next files that are opened get their numbers, and what a library prints lands in a shard or a checkpoint.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # gets the lowest free number, this one
            if number:
                setattr(sys, ("stdin", "stdout", "stderr")[number], open(number, "w", encoding="utf-8", closefd=False))  # noqa: SIM115


def _flush() -> bool:
    """Flushes standard output; returns whether all of it has reached its reader."""
    try:
        sys.stdout.flush()
    except (OSError, ValueError) as e:
        # The interpreter flushes once more at its end, and would complain.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        # Who closes a pipe, as head(1) does, has read enough.
        if isinstance(e, OSError) and e.errno != errno.EPIPE:
            print(
                f"OutputError: standard output: {e.strerror}. Make room there, and run the same command again.", file=sys.stderr
            )
        return False
    return True


def _end(*_: object) -> NoReturn:
    """Ends the process without the clean-up of half-loaded modules."""
    if all(os.environ.get(name, "0") == "0" for name in RANK_VARIABLES):
        os.write(2, b"interrupted: ended at once\n")
    os._exit(INTERRUPTED)
