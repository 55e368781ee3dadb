"""What holds for every test."""

import logging
import os
import time
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from xdist.scheduler import LoadScopeScheduling

from jadeberta.utils.logs import PROJECT_LOGGERS

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
    "tests/cluster", "tests/chaos/", "tests/test_end_to_end.py", "tests/training/", "tests/preprocess/stages", "tests/preflight/",
    "tests/finetune", "tests/evaluation/", "tests/scaling/", "tests/bench/", "tests/model/",
)  # fmt: skip
"""Beginnings of the groups that start first, so that no worker is left with a heavy one at the end."""
SHARED = ("tests/cluster", "tests/finetune", "tests/model/triton", "tests/preprocess/stages")
"""Folders whose tests share something that takes long to make: a Slurm, a model, a Triton interpreter, the shards of the sample."""


def group_of(nodeid: str) -> str:
    """Tests of a group run one after another in one worker: those of a folder in SHARED, and else those of a file."""
    file = nodeid.partition("::")[0]
    return next((folder for folder in SHARED if file.startswith(f"{folder}/")), file)


def rank_of(nodeid: str) -> int:
    return next((place for place, beginning in enumerate(HEAVY) if nodeid.startswith(beginning)), len(HEAVY))


class GroupScheduling(LoadScopeScheduling):
    """Gives a worker the next group when it has done its last one. xdist's own loadgroup does nothing under pytest 9.2: it writes the
    group into an attribute that pytest no longer reads, and each worker starts a Slurm of its own."""

    def _split_scope(self, nodeid: str) -> str:
        return group_of(nodeid)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> LoadScopeScheduling:
    return GroupScheduling(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: rank_of(item.nodeid))


def pytest_make_parametrize_id(val: object, argname: str) -> str | None:
    """Bytes name no test unless they are plain text: compressed ones hold the time, and workers that collect other names do not start."""
    return argname if isinstance(val, bytes) and not (val.isascii() and val.decode().isprintable()) else None


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
