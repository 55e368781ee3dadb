"""The verdict on a run: each rule, from a small run directory, and the words of the sentence."""

import json
import os
import re
import time

import pytest

from jadeberta.config.alerts_config import AlertsConfig, check_alerts
from jadeberta.errors import ConfigError
from jadeberta.status import cli as status
from jadeberta.status import facts as facts_module
from jadeberta.status.facts import Disk
from jadeberta.status.run_verdict import RULES
from jadeberta.status.verdict_words import clock, format_date, format_end, plain
from tests.helpers import ROOT
from tests.status.run_files import DAY, HOUR, NOW, ROOM, STEP_S, RunFiles, answer_as_slurm


@pytest.fixture(autouse=True)
def no_slurm(monkeypatch, tmp_path):
    """This host has no Slurm, and much room on its disk."""
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.setattr(facts_module, "look_at_disk", lambda run: ROOM)


@pytest.fixture
def files(tmp_path):
    return RunFiles(tmp_path / "run")


def test_a_run_that_goes_on_is_ok_and_says_when_it_will_be_done(files) -> None:
    files.attempt_from(NOW - 3 * DAY, 72)
    found = files.verdict()
    # 568 steps of ten minutes are left, at a goodput of 1: 3.9 days.
    assert found.sentence == "Running; done 3 Dec ± 1 day; nothing needs you."
    assert (found.level, found.reason, found.findings, found.goodput_24h) == ("ok", "running", (), pytest.approx(1.0))
    assert found.ends == pytest.approx(NOW + 568 * STEP_S) and found.margin_s == pytest.approx(0.0, abs=1.0)


def test_the_range_of_the_end_grows_with_the_scatter_of_the_days_before(files) -> None:
    for day, hours in enumerate((24, 6, 24, 6)):
        last = files.attempt_from(NOW - (4 - day) * DAY, hours)
    files.attempt_from(NOW - 600, 0.2)  # it lives
    found = files.verdict()
    left = (1000 - files.step) * STEP_S
    assert last < NOW and found.ends is not None and found.margin_s is not None
    assert found.ends - NOW == pytest.approx(left / 0.625, rel=0.05)
    assert found.margin_s > DAY


@pytest.mark.parametrize(
    ("day", "level", "words"),
    [
        ("2026-12-04", "ok", "Running, on plan; done 3 Dec ± 1 day; nothing needs you."),
        (
            "2026-12-01",
            "attention",
            "Running; done 3 Dec ± 1 day; LOOK: behind the plan by 2 days, which was to be done by 2026-12-01.",
        ),
    ],
)
def test_a_plan_is_kept_or_not(tmp_path, day, level, words) -> None:
    files = RunFiles(tmp_path / "run", alerts=f"{{done_by: '{day}'}}")
    files.attempt_from(NOW - 3 * DAY, 72)
    assert (files.verdict().sentence, files.verdict().level) == (words, level)


def test_a_low_goodput_is_worth_a_look(tmp_path) -> None:
    files = RunFiles(tmp_path / "run", alerts="{goodput_below: 0.9}")
    files.attempt_from(NOW - 24 * HOUR, 12)
    files.attempt_from(NOW - 6 * HOUR, 6)
    found = files.verdict()
    assert (found.level, found.reason, found.goodput_24h) == ("attention", "goodput", pytest.approx(0.75))
    assert "LOOK: goodput of the last 24 hours is 75%, below the bound of 90%; do: " in found.sentence


def test_a_finished_run_is_done(files) -> None:
    files.event(files.attempt_from(NOW - 3 * HOUR, 2) + 1, "done", step=1000, tokens=5)
    assert files.verdict().sentence == "Done at 11:00, after step 1,000; nothing needs you."
    assert files.verdict(NOW + 9 * DAY).level == "done"


def test_a_status_that_no_attempt_mends_needs_a_person(files) -> None:
    at = files.attempt_from(NOW - 3 * HOUR, 2)
    files.event(at, "stop", status=13, reason="step 12: the ranks' weights differ. Look at rank 3.")
    found = files.verdict()
    assert (found.level, found.reason, found.since) == ("needs-you", "stopped", at)
    assert found.sentence.startswith(
        "NEEDS YOU: stopped at 11:00 with status 13, which no new attempt mends, because step 12: the ranks' weights differ. "
        "Look at rank 3; do: mend the cause"
    )


def test_a_run_that_a_person_stopped_needs_nobody(files) -> None:
    files.event(files.attempt_from(NOW - 3 * HOUR, 2), "stop", status=10, reason="STOP was found.")
    found = files.verdict(NOW + DAY)
    assert (found.level, found.sentence) == ("stopped", "Stopped at 29 Nov 11:00 as it was asked to; start it again to go on.")


def test_a_killed_run_is_between_two_attempts_at_first_and_then_not_continued(files) -> None:
    at = files.attempt_from(NOW - 3 * HOUR, 3)
    (files.run / ".lock").write_text(json.dumps({"host": os.uname().nodename, "pid": 1}))  # nobody holds it
    found = files.verdict(NOW + 300)
    assert (found.level, found.reason) == ("ok", "between-attempts")
    found = files.verdict(NOW + 700)
    assert (found.level, found.reason, found.since) == ("needs-you", "not-continued", at)
    assert found.sentence == (
        "NEEDS YOU: not continued since 12:00, because attempt 0 was killed or failed and nothing has started it again; "
        "do: start it again with the same command; it resumes by itself."
    )


def test_a_job_that_slurm_lost_is_not_continued_and_one_in_its_queue_is(tmp_path, files) -> None:
    at = files.attempt_from(NOW - 3 * HOUR, 2, job=12, restarts=0)
    files.job("begin", NOW - 3 * HOUR)
    files.job("end", at, status=12, action="requeue", reason="status 12: n2 hangs. It is requeued.")
    found = files.verdict()
    assert (found.level, found.reason) == ("needs-you", "not-continued")
    assert "status 12: n2 hangs. It is requeued (scontrol is not on this host" in found.sentence
    answer_as_slurm(tmp_path, "PENDING", "Priority")
    assert files.verdict().sentence.startswith("Queued in Slurm (Priority); done ")
    (tmp_path / "bin" / "scontrol").unlink(), (tmp_path / "bin").rmdir()
    answer_as_slurm(tmp_path, "FAILED")
    found = files.verdict()
    assert (found.level, found.reason) == ("needs-you", "not-continued") and "Slurm has no job that goes on" in found.sentence


def test_a_job_that_waits_for_a_person_says_so(tmp_path, files) -> None:
    files.attempt_from(NOW - 3 * HOUR, 2, job=12, restarts=0)
    files.job("begin", NOW - 3 * HOUR)
    answer_as_slurm(tmp_path, "PENDING", "JobHeldAdmin")
    found = files.verdict()
    assert (found.level, found.reason) == ("needs-you", "held")
    assert found.sentence.startswith(
        "NEEDS YOU: job 12 waits and will not start by itself, because Slurm says JobHeldAdmin; do: "
    )


def test_a_run_that_hung_and_is_not_continued_names_rank_and_host(files) -> None:
    at = files.attempt_from(NOW - 3 * HOUR, 2)
    files.event(at + 600, "hang", rank=3, step=12, seconds=600.0)
    found = files.verdict()
    assert (found.level, found.reason) == ("needs-you", "hang")
    assert found.sentence.startswith("NEEDS YOU: not continued since 11:10, because rank 3 on n1 hung at step 12; do: ")
    assert [one.reason for one in found.findings] == ["hang"]


def test_a_run_that_lives_and_writes_nothing_hangs(tmp_path, files) -> None:
    files.attempt_from(NOW - 3 * HOUR, 2, job=12, restarts=0)
    files.job("begin", NOW - 3 * HOUR)
    files.event(NOW - 60, "energy", gpu_kwh=1.0)  # by the watchdog, whatever its trainer does
    answer_as_slurm(tmp_path, "RUNNING")
    found = files.verdict()  # an hour of silence, beyond every limit of its watchdog
    assert (found.level, found.reason) == ("needs-you", "hang")
    assert found.sentence.startswith("NEEDS YOU: no progress since 11:00, though it still holds its place")
    assert files.verdict(NOW - HOUR + 600).level == "ok"


def test_attempts_without_a_newer_checkpoint_need_a_person(files) -> None:
    files.attempt_from(NOW - 9 * HOUR, 2)
    for hour in (6, 4, 2):
        files.attempt_from(NOW - hour * HOUR, 0.2)
    found = files.verdict(NOW)
    assert (found.level, found.reason) == ("needs-you", "fruitless")
    assert found.sentence.startswith(
        "NEEDS YOU: 3 attempts in a row ended without a newer checkpoint, the last at 10:10, because "
    )
    assert "(also: not-continued)" in found.sentence
    files.attempt_from(NOW - 1.9 * HOUR, 1.9)
    assert files.verdict().level == "ok"


def test_a_verified_checkpoint_that_is_too_old_needs_a_person(files) -> None:
    files.attempt_from(NOW - 9 * HOUR, 9, save_until=NOW - 5 * HOUR)
    files.event(NOW - 60, "save_failed", step=60, error="No space left on device", stall_s=0.0)
    found = files.verdict()
    assert (found.level, found.reason, found.since) == ("needs-you", "checkpoint-old", NOW - 5 * HOUR)
    assert (
        "the newest verified checkpoint is of step 24 and 5h 00m old, because a save failed: No space left on device"
        in found.sentence
    )


@pytest.mark.parametrize(
    ("disk", "keep", "words"),
    [
        (Disk(1 << 30, 10 << 30, 1), "{every_steps: 6}", "the disk is full: 1.0 GiB are free, and a checkpoint takes 10.0 GiB"),
        # 24 saves a day of 10 GiB, all kept, fill 490 GiB in two days.
        (Disk(490 << 30, 10 << 30, 1), "{every_steps: 6, keep_last: 0}", "the disk will be full in 2.0 days: 490.0 GiB are free"),
        (Disk(490 << 30, 10 << 30, 1), "{every_steps: 6}", ""),
        (None, "{every_steps: 6}", ""),
    ],
)
def test_a_disk_that_fills_up_needs_a_person(tmp_path, monkeypatch, disk, keep, words) -> None:
    monkeypatch.setattr(facts_module, "look_at_disk", lambda run: disk)
    files = RunFiles(tmp_path / "run", checkpoint=keep)
    files.attempt_from(NOW - DAY, 24)
    found = files.verdict()
    assert (found.level, words in found.sentence) == (("needs-you" if words else "ok"), True)


def test_status_begins_with_the_sentence_and_json_has_the_whole_verdict(files, capsys) -> None:
    files.event(files.attempt_from(NOW - 3 * HOUR, 2), "stop", status=13, reason="x")
    now = time.time()
    expected = files.verdict(now)
    assert status.main([str(files.run)]) == 0
    assert capsys.readouterr().out.splitlines()[0] == expected.sentence
    assert status.main([str(files.run), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["verdict"]
    assert (found["sentence"], found["level"], found["reason"]) == (expected.sentence, "needs-you", "stopped")
    assert [one["reason"] for one in found["findings"]] == ["stopped"]


def test_the_recipe_of_another_version_gives_the_bounds_that_it_can(tmp_path) -> None:
    files = RunFiles(tmp_path / "run", alerts="{done_by: soon, goodput_below: much, other: 1}", cluster="[1]")
    files.attempt_from(NOW - DAY, 24)
    assert files.verdict().level == "ok"


def test_bounds_that_mean_nothing_are_refused() -> None:
    for alerts, words in (
        (AlertsConfig(goodput_below=80.0), "alerts.goodput_below is 80.0; it is a share"),
        (AlertsConfig(done_by="14 Jan"), "alerts.done_by is 14 Jan; it must be a day, such as 2027-01-14"),
        (AlertsConfig(done_by="9999-12-31"), "alerts.done_by is 9999-12-31"),
    ):
        with pytest.raises(ConfigError, match=re.escape(words)):
            check_alerts(alerts)


def test_words_stay_on_one_line_and_times_near_now_are_short() -> None:
    assert plain("two\nlines\x1b[31m, a tab\t.") == "two lines [31m, a tab"
    assert len(plain("x" * 10_000)) == 300
    assert (clock(NOW - HOUR, NOW), clock(NOW - DAY, NOW), clock(None, NOW)) == ("11:00", "28 Nov 12:00", "an unknown time")
    assert clock(NOW - 365 * DAY, NOW) == "29 Nov 2025 12:00"
    assert (format_end(NOW + HOUR, 600, NOW), format_end(NOW + 50 * DAY, 2 * DAY, NOW)) == ("13:00 ± 10m 00s", "18 Jan ± 2 days")
    assert "calendar" in format_end(1e30, DAY, NOW)
    assert (format_date(NOW - HOUR, NOW), format_date(NOW - 365 * DAY, NOW)) == ("29 Nov", "29 Nov 2025")


def test_the_page_lists_every_rule() -> None:
    page = (ROOT / "docs/recover.md").read_text(encoding="utf-8")
    listed = re.findall(r"(?m)^\| `([a-z-]+)` \|", page[page.index("## The verdict") : page.index("## Saves")])
    assert listed == list(RULES)
