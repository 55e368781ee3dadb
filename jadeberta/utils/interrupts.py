"""What Ctrl-C does while a program still loads its modules, and at its end: one line and status 130, no traceback.

Only the standard library's smallest modules are imported here: a Ctrl-C before this file has been read meets Python's own answer.
"""

import os
import signal
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

    Args:
        load: imports the program and returns the function that runs it.
    """
    answers = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if answers:
        signal.signal(signal.SIGINT, _end)
    run = load()
    if answers:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        run()
    except KeyboardInterrupt:
        _end()
    finally:
        if answers:
            # Python's own last steps, which wait for threads, would answer with a traceback.
            signal.signal(signal.SIGINT, signal.SIG_DFL)


def _end(*_: object) -> NoReturn:
    """Ends the process without the clean-up of half-loaded modules."""
    if all(os.environ.get(name, "0") == "0" for name in RANK_VARIABLES):
        os.write(2, b"interrupted: ended at once\n")
    os._exit(INTERRUPTED)
