"""The time left is reckoned in sequences: steps of a growing batch take longer as it grows."""

import pytest

from jadeberta.config.batch_sizes import BatchSizes
from jadeberta.training.console import Console
from jadeberta.utils.logs import configure_console


@pytest.mark.parametrize(
    "sizes,left",
    [
        (BatchSizes(8), "2m 20s"),  # 14 more steps of 10 s
        (BatchSizes(8, ((2, 10),)), "6m 20s"),  # 10 s for 2 sequences: 6 more steps of 10 s and 8 of 40 s
    ],
)
def test_the_time_left_goes_by_the_sequences_that_are_left(sizes, left, monkeypatch, capsys) -> None:
    now = 0.0
    monkeypatch.setattr("jadeberta.training.console.time.monotonic", lambda: now)
    console = Console(18, 4, sizes, configure_console())
    for step in range(1, 5):
        console.step(step, 1.0, 0.5, 1e-4, 100.0)
        now += 10.0
    assert capsys.readouterr().out.strip().endswith(f"{left} left")
