"""`python -m jadeberta` and the console script `jadeberta`."""

from collections.abc import Callable

from jadeberta.utils.interrupts import run_interruptible


def main() -> None:
    """Runs the verb named on the command line and ends with its status."""
    run_interruptible(_load)


def _load() -> Callable[[], None]:
    from jadeberta.cli import main

    return main


if __name__ == "__main__":
    main()
