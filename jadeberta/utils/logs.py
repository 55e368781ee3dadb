"""Logging: one console handler on rank 0, none on the others."""

import logging
from typing import TextIO

from jadeberta.utils.progress_line import ConsoleHandler

PROJECT_LOGGERS = ("jadeberta", "preprocess")


def configure_console(
    is_root: bool = True, stream: TextIO | None = None, times: bool = False, live: bool = True
) -> ConsoleHandler | None:
    """Sends the project's log records of INFO and above to the console of rank 0; a later call replaces the handler.

    Args:
        is_root: whether this process is rank 0; the other ranks get no console handler.
        stream: where lines go; None: standard output.
        times: begin each line with the time of day.
        live: see `ConsoleHandler`.

    Returns:
        The handler, which also shows the progress line; None on other ranks.
    """
    handler = ConsoleHandler(stream, live) if is_root else None
    if handler is not None:
        handler.setFormatter(
            logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S") if times else logging.Formatter("%(message)s")
        )
    for name in PROJECT_LOGGERS:
        logger = logging.getLogger(name)
        for old in logger.handlers[:]:
            if isinstance(old, ConsoleHandler | logging.NullHandler):
                logger.removeHandler(old)
        logger.addHandler(handler or logging.NullHandler())
        logger.setLevel(logging.INFO)
        # Libraries hang handlers of their own on the root logger; our lines would come twice.
        logger.propagate = False
    return handler
