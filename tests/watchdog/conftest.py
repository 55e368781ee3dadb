"""Ends what a test of this folder has left running in the test process."""

from collections.abc import Iterator

import pytest

from tests.watchdog.watched import OPEN


@pytest.fixture(autouse=True)
def no_watchdog_left() -> Iterator[None]:
    yield
    while OPEN:
        OPEN.pop().close()
