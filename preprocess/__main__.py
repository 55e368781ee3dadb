"""`python -m preprocess`; the program is in cli.py."""

from collections.abc import Callable

from jadeberta.utils.interrupts import run_interruptible


def main() -> None:
    """Runs the stage named on the command line and ends with its status."""
    run_interruptible(_load)


def _load() -> Callable[[], None]:
    from preprocess.cli import main

    return main


if __name__ == "__main__":
    main()
