"""A short set of kills, and that the driver would see what it looks for; the long set is `make chaos`."""

import pytest

from tests.chaos.killer import NEVER, Kill, Plan, all_plans, directory_state
from tests.chaos.kills import figures, resumed_too_early, runs_until
from tests.chaos.observer import DirectoryView

FEW: list[Plan] = [("rename", "everything")]
MORE: list[Plan] = [("end", "rank 1"), ("save", "writer"), ("save", "rank 0"), ("rename", "rank 1"), ("prune", "launcher")]


@pytest.mark.slow
@pytest.mark.parametrize("plans", [FEW, pytest.param(MORE, marks=pytest.mark.long)], ids=["few", "more"])
def test_killed_while_it_saves_renames_prunes_and_ends_a_run_goes_on_by_itself_to_the_same_bits(
    tmp_path, plans: list[Plan]
) -> None:
    *_, (unbroken, *runs) = runs_until(tmp_path, len(plans), iter(plans), seed=1, steps=18 * len(plans))
    found = figures(unbroken, runs, 0.0)
    assert found["faults"] == []
    assert found["bit_identical_runs"] == len(runs)
    assert found["kills"] == len(plans)
    assert {"save", "manifest", "renamed"} & found["kills_by_checkpoints_directory_hit"].keys()


def test_an_attempt_that_goes_back_behind_a_commit_or_starts_elsewhere_than_it_records_is_a_fault() -> None:
    kills = [Kill("step", "ranks", attempt=1, step=8, phase="step", directory="at rest", trusted=6, time=10.0)]
    ledger = [{"event": "start", "attempt": 0, "time": 1.0}, {"event": "start", "attempt": 1, "time": 11.0}]

    def faults(resumed: int, first_step: int) -> list[str]:
        rows = [{"attempt": 0, "step": s} for s in range(1, 9)] + [{"attempt": 1, "step": s} for s in range(first_step, 12)]
        events = [*ledger, {"event": "resume", "attempt": 1, "step": resumed}] if resumed else ledger
        return resumed_too_early(kills, rows, events)

    assert faults(6, 7) == faults(8, 9) == []
    assert faults(3, 4) == ["attempt 1 resumed at step 3 although step 6 had been committed"]
    assert faults(0, 1) == ["attempt 1 resumed at step 0 although step 6 had been committed"]
    assert faults(6, 8) == ["attempt 1 resumed at step 6 and began with step 8"]


def test_the_checkpoints_directory_tells_what_a_kill_has_hit(tmp_path) -> None:
    def seen(left_over: int = 0) -> str:
        return directory_state(DirectoryView.of(tmp_path), frozenset({left_over}), renamed=False)

    assert seen() == "at rest" and DirectoryView.of(tmp_path / "missing") == DirectoryView()
    (tmp_path / "step-00000006").mkdir()
    assert seen() == "at rest" and DirectoryView.of(tmp_path).newest == 6
    (tmp_path / "step-00000009.tmp").mkdir()
    assert seen() == "save"
    (tmp_path / "step-00000009.tmp/manifest.json").touch()
    assert seen() == "manifest"
    (tmp_path / "step-00000003.deleted").mkdir()
    assert seen() == "prune" and seen(left_over=3) == "manifest"


def test_every_moment_comes_with_every_target() -> None:
    plans = all_plans(0)
    met = {next(plans) for _ in range(200)}
    assert {("save", "rank 0"), ("rename", "launcher"), ("end", "everything"), ("start", "watchdog"), ("prune", "writer")} <= met
    assert not met & NEVER
