"""A short set of kills of preprocessing jobs; the long set is `make chaos-preprocess`."""

from pathlib import Path

import pytest

from tests.chaos.preprocess_kills import figures, runs_until


@pytest.mark.slow
def test_a_job_killed_in_any_stage_goes_on_to_the_same_bytes_and_does_no_finished_task_again(tmp_path: Path) -> None:
    *_, runs = runs_until(tmp_path, 3, seed=1, ways=("mpi", "pool"), aims=("extract", "segment", "pack"))
    found = figures(runs, 0.0)
    assert found["faults"] == []
    assert found["byte_identical_runs"] == len(runs) and found["kills"] >= 3
    assert found["finished_pieces_that_kills_met_and_none_did_again"] > 0
