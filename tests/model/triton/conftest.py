"""Triton's interpreter in a process of its own: Triton decides when it is imported, and other tests import it to compile."""

import importlib.util
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import Any

import pytest


@pytest.fixture(scope="session")
def interpreted() -> Iterator[Callable[..., Any]]:
    """`interpreted(function, *arguments)`: its result in that process."""
    if importlib.util.find_spec("triton") is None:
        pytest.skip("Triton is not installed")
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("TRITON_INTERPRET", "1")
            patch.setenv("OMP_NUM_THREADS", "1")
            assert process.submit(os.getenv, "TRITON_INTERPRET").result() == "1"
        yield lambda function, *arguments: process.submit(function, *arguments).result(timeout=300)
