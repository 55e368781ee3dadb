"""A free port for the ranks of this machine to meet at. Imports no torch: the launcher would wait for it."""

import random
import socket

from jadeberta.errors import ConfigError


def free_port() -> int:
    """Returns a free port for the ranks to meet at.

    Not from the ephemeral range of the kernel: rank 0 listens seconds later, and any connection could take such a port until then.

    Raises:
        ConfigError: none of 100 ports is free.
    """
    for port in random.SystemRandom().sample(range(15000, 32768), 100):
        with socket.socket() as s:
            try:
                s.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise ConfigError(
        "none of 100 ports between 15000 and 32767 is free on this machine. End what holds them, or set MASTER_PORT."
    )
