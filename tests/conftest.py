"""What holds for every test."""

import logging
import os
import time
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, settings

from jadeberta.utils.logs import PROJECT_LOGGERS
from tests.helpers import ROOT

if "PYTEST_XDIST_WORKER" in os.environ:
    # Several workers share the cores; threads of one that wait for a core hold up its others.
    os.environ.setdefault("OMP_NUM_THREADS", "1")

# The same examples in every run, and no limit on the time of one: a busy machine is no fault of the code. To look for new examples:
# pytest --hypothesis-profile=search
settings.register_profile("steady", derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("search", deadline=None, suppress_health_check=[HealthCheck.too_slow], max_examples=1000)
settings.load_profile("steady")

LONG_TESTS_UNTIL = float(os.environ.get("LONG_TESTS_UNTIL", "inf"))
"""Time, in seconds since 1970, after which no long test starts; .ci/run sets it."""
HEAVY = (
    "slurm", "tests/chaos/", "tests/test_end_to_end.py", "tests/training/", "tests/preprocess/stages/", "tests/cluster/",
    "tests/preflight/", "tests/finetune/", "tests/evaluation/", "tests/scaling/", "tests/bench/", "tests/model/",
)  # fmt: skip
"""Beginnings of the groups that start first, so that no worker is left with a heavy one at the end."""


def group_of(item: pytest.Item) -> str:
    """Tests of a group run one after another in one worker: those of the session's Slurm, and else those of a file."""
    return "slurm" if "slurm" in getattr(item, "fixturenames", ()) else item.path.relative_to(ROOT).as_posix()


def rank_of(group: str) -> int:
    return next((place for place, beginning in enumerate(HEAVY) if group.startswith(beginning)), len(HEAVY))


@pytest.hookimpl(tryfirst=True)  # before xdist reads the marks
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        item.add_marker(pytest.mark.xdist_group(group_of(item)))
    items.sort(key=lambda item: rank_of(group_of(item)))


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("long") and time.time() > LONG_TESTS_UNTIL:
        pytest.skip("the time that .ci/run has for long tests is over; make test-long runs it")


@pytest.fixture(autouse=True)
def no_console_handler_stays() -> Iterator[None]:
    """A command that a test runs in its own process leaves its console handler, whose stream ends with the test."""
    yield
    for name in PROJECT_LOGGERS:
        for handler in logging.getLogger(name).handlers[:]:
            logging.getLogger(name).removeHandler(handler)
