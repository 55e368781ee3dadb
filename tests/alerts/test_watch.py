"""`jadeberta watch`: which events are sent, each once, and what happens where one cannot be."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from jadeberta.alerts import cli as watch
from jadeberta.alerts import deliver as deliver_module
from jadeberta.alerts.deliver import deliver
from jadeberta.alerts.events import EVENTS, MOST_ROWS, QUIET_S
from jadeberta.alerts.sent import MOST_TRIES
from jadeberta.alerts.watch_pass import look
from jadeberta.config.alerts_config import AlertsConfig, check_alerts, split_command
from jadeberta.errors import ConfigError, OutputError
from jadeberta.status import cli as status
from jadeberta.status import facts as facts_module
from jadeberta.status.facts import Disk
from jadeberta.utils.files import write_atomically
from tests.helpers import ROOT
from tests.status.run_files import DAY, HOUR, NOW, ROOM, RunFiles


@pytest.fixture(autouse=True)
def surroundings(monkeypatch, tmp_path):
    """No Slurm, room on the disk, a home of its own, and no pauses between tries."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(facts_module, "look_up_jobs", lambda *_: facts_module.JobStatus())
    monkeypatch.setattr(facts_module, "look_at_disk", lambda run: ROOM)
    monkeypatch.setattr(deliver_module, "PAUSES_S", (0.0, 0.0))


@pytest.fixture
def command(tmp_path):
    """A command that appends what it gets to a file, one object a call; fails while `fail` is there."""
    script = tmp_path / "alert.sh"
    script.write_text(
        f'#!/bin/sh\n[ ! -e {tmp_path}/fail ] || {{ echo "no network" >&2; exit 7; }}\ncat >> {tmp_path}/got\n'
        f'printf "%s|%s|%s\\n" "$JADEBERTA_EVENT" "$JADEBERTA_RUN" "$JADEBERTA_ALERT" >> {tmp_path}/texts\n'
    )
    script.chmod(0o755)
    return str(script)


@pytest.fixture
def files(tmp_path):
    return RunFiles(tmp_path / "run")


@pytest.fixture
def clock(monkeypatch):
    """The clock of `jadeberta watch` stands at NOW."""
    monkeypatch.setattr(watch.time, "time", lambda: NOW)


def got(tmp_path) -> list[dict]:
    return [json.loads(line) for line in (tmp_path / "got").read_text().splitlines()] if (tmp_path / "got").exists() else []


def kinds(tmp_path) -> list[str]:
    return [event["event"] for event in got(tmp_path)]


def test_a_run_that_does_not_speak_is_spoken_for_once(tmp_path, files, command) -> None:
    at = files.attempt_from(NOW - 3 * HOUR, 3)
    assert look(files.run, NOW + 60, command).sent == ()
    first = look(files.run, NOW + HOUR, command)
    assert (
        len(first.sent) == 1
        and look(files.run, NOW + 2 * HOUR, command).sent == () == look(files.run, NOW + 9 * DAY, command).sent
    )
    (event,) = got(tmp_path)
    assert (event["event"], event["reason"], event["since"], event["run"]) == ("needs-you", "not-continued", at, str(files.run))
    assert event["text"] == f"{files.run}: {first.verdict.sentence}" and event["verdict"]["sentence"] == first.verdict.sentence
    assert (tmp_path / "texts").read_text() == f"needs-you|{files.run}|{event['text']}\n"
    # It goes on, and dies again: that is another event.
    files.attempt_from(NOW + 10 * DAY, 1)
    assert look(files.run, NOW + 10 * DAY + HOUR, command).sent == ()
    look(files.run, NOW + 11 * DAY, command)
    assert kinds(tmp_path) == ["needs-you", "needs-you"]


def test_rows_of_the_ledger_are_events_and_those_from_before_the_watch_are_history(tmp_path, files, command) -> None:
    files.attempt_from(NOW - 3 * HOUR, 3)
    files.event(NOW, "rollback", step=6, from_step=12, number=1)
    look(files.run, NOW + 1, command)
    assert kinds(tmp_path) == []
    files.event(NOW + 2, "rollback", step=6, from_step=18, number=2)
    files.event(NOW + 3, "hang", rank=1, step=18, seconds=600.0)
    files.attempt_from(NOW + 4, 0.2)
    for _ in range(2):
        look(files.run, NOW + 60, command)
    assert kinds(tmp_path) == ["roll-back", "hang"]
    assert [event["what"] for event in got(tmp_path)] == [
        "rolled back from step 18 to step 6, 12:00", "rank 1 on n1 hung at step 18, 12:00",
    ]  # fmt: skip
    for n in range(9):
        files.event(NOW + 70 + n, "rollback", step=n, from_step=18, number=3 + n)
    look(files.run, NOW + 90, command)
    assert len(got(tmp_path)) == 2 + MOST_ROWS and "(4 such events before it" in got(tmp_path)[2]["what"]


def test_what_holds_for_a_while_is_one_event_until_it_was_gone_for_a_day(tmp_path, monkeypatch, command) -> None:
    files = RunFiles(tmp_path / "run", alerts="{goodput_below: 0.9}", training="{max_steps: 100000}")
    files.attempt_from(NOW - 4 * DAY, 24 * 9)
    full, now = Disk(1 << 20, 10 << 30, 1), NOW
    for disk, hours in ((full, 1), (full, 1), (ROOM, 1), (full, 1), (ROOM, 30), (full, 1)):
        monkeypatch.setattr(facts_module, "look_at_disk", lambda run, disk=disk: disk)
        now += hours * HOUR
        look(files.run, now, command)
    assert now - 30 * HOUR > QUIET_S and kinds(tmp_path) == ["disk", "disk"]


def test_each_state_is_the_event_that_its_name_says(tmp_path, command) -> None:
    for kind, end in (
        ("done", {"event": "done", "step": 100, "tokens": 1}),
        ("stopped", {"event": "stop", "status": 10, "reason": "STOP was found."}),
        ("needs-you", {"event": "stop", "status": 13, "reason": "the weights differ."}),
    ):
        files = RunFiles(tmp_path / kind)
        files.event(files.attempt_from(NOW - 3 * HOUR, 2) + 1, **end)
        look(files.run, NOW, command)
        assert kinds(tmp_path)[-1] == kind
    files = RunFiles(tmp_path / "low", alerts="{goodput_below: 0.9, done_by: '2020-01-01'}")
    files.attempt_from(NOW - 24 * HOUR, 12)
    files.attempt_from(NOW - 6 * HOUR, 6)
    look(files.run, NOW, command)
    assert kinds(tmp_path)[-2:] == ["goodput", "behind-plan"]
    files = RunFiles(tmp_path / "fruitless")
    for hour in (9, 6, 4, 2):
        files.attempt_from(NOW - hour * HOUR, 0.2)
    look(files.run, NOW, command)
    assert kinds(tmp_path)[-2:] == ["no-progress", "needs-you"] and set(kinds(tmp_path)) | {"hang", "roll-back", "disk"} == set(
        EVENTS
    )


def test_an_alert_that_cannot_be_sent_is_tried_again_and_given_up_in_the_end(tmp_path, files, command) -> None:
    files.attempt_from(NOW - 9 * HOUR, 3)
    (tmp_path / "fail").touch()
    seen = look(files.run, NOW, command)
    assert seen.sent == () and len(seen.faults) == 1
    assert (
        f"the alert 'needs-you' was not sent: {command} ended with status 7: no network (--command). The next pass"
        in seen.faults[0]
    )
    (tmp_path / "fail").unlink()
    assert len(look(files.run, NOW + 1, command).sent) == 1
    files.attempt_from(NOW + HOUR, 1)
    (tmp_path / "fail").touch()
    faults = [look(files.run, NOW + DAY + n, command).faults for n in range(MOST_TRIES + 1)]
    assert "given up after 10 passes" in faults[-2][0] and faults[-1] == () and len(got(tmp_path)) == 1


def test_roll_backs_wait_for_the_one_that_could_not_be_sent(tmp_path, files, command) -> None:
    files.attempt_from(NOW - 3 * HOUR, 3)
    look(files.run, NOW, command)
    (tmp_path / "fail").touch()
    for n in range(2):
        files.event(NOW + n, "rollback", step=n, from_step=18)
    look(files.run, NOW + 5, command)
    (tmp_path / "fail").unlink()
    look(files.run, NOW + 6, command)
    assert [event["what"].split(",")[0] for event in got(tmp_path)] == [f"rolled back from step 18 to step {n}" for n in range(2)]


def test_a_command_has_a_time_limit_for_itself_and_all_that_it_has_started(tmp_path) -> None:
    event = {"text": "a\0b", "event": "done", "run": "r"}
    began = time.monotonic()
    found = deliver(["/bin/sh", "-c", f"sleep 60 & echo $! > {tmp_path}/pid; wait"], event, 0.2, lambda _: None)
    assert not found.ok and "did not end within 0.2 s and was killed" in found.fault and time.monotonic() - began < 10
    pid = int((tmp_path / "pid").read_text())
    for _ in range(100):
        stat = Path(f"/proc/{pid}/stat")
        if not stat.exists() or stat.read_text().split()[2] == "Z":
            break
        time.sleep(0.05)
    else:
        pytest.fail("what the command has started lives on")
    # What it leaves in the background on purpose does not hold up the watch, and its input need not be read.
    assert deliver(["/bin/sh", "-c", "sleep 3 & exit 0"], event, 2.0).ok
    assert "cannot be started (No such file or directory)" in deliver([str(tmp_path / "none")], event, 1.0, lambda _: None).fault


def test_two_watchers_at_once_send_an_event_once(tmp_path, files, command) -> None:
    files.attempt_from(NOW - 9 * HOUR, 3)
    children = []
    for _ in range(3):
        if (pid := os.fork()) == 0:
            status = 1
            try:
                look(files.run, NOW, command)
                status = 0
            finally:
                os._exit(status)
        children.append(pid)
    assert [os.waitpid(pid, 0)[1] for pid in children] == [0, 0, 0] and kinds(tmp_path) == ["needs-you"]


def test_a_full_disk_neither_silences_nor_repeats_an_alert(tmp_path, files, command, monkeypatch) -> None:
    files.attempt_from(NOW - 9 * HOUR, 3)

    def full(path, content, durable=True):
        if files.run in path.parents:
            raise OSError(28, "No space left on device")
        write_atomically(path, content, durable)

    monkeypatch.setattr("jadeberta.alerts.sent.write_atomically", full)
    for n in range(3):
        look(files.run, NOW + n, command)
    assert kinds(tmp_path) == ["needs-you"] and not (files.run / "alerts/sent.json").exists()
    monkeypatch.setattr("jadeberta.alerts.sent.write_atomically", write_atomically)
    look(files.run, NOW + 5, command)
    assert kinds(tmp_path) == ["needs-you"]
    (files.run / "alerts").rename(tmp_path / "away")
    (files.run / "alerts").write_text("a file where the folder shall be")
    look(files.run, NOW + 6, command)
    assert kinds(tmp_path) == ["needs-you"]
    (tmp_path / "home").rename(tmp_path / "home-away")
    (tmp_path / "home").write_text("likewise")
    with pytest.raises((ConfigError, OutputError), match="cannot be written"):
        look(files.run, NOW + 7, command)


def test_damaged_state_is_that_of_nobody_who_has_watched(tmp_path, files, command) -> None:
    files.attempt_from(NOW - 9 * HOUR, 3)
    for n, content in enumerate((b"", b"[1]", b'{"rows": "x"}', b'{"rows": -3, "events": [1], "tries": {"a": NaN}}', b"\xff")):
        (files.run / "alerts").mkdir(exist_ok=True)
        (files.run / "alerts/sent.json").write_bytes(content)
        look(files.run, NOW, command)
        assert len(got(tmp_path)) == n + 1


def test_the_recipe_names_the_command_and_another_users_recipe_is_not_obeyed(tmp_path, command, monkeypatch) -> None:
    files = RunFiles(tmp_path / "run", alerts=json.dumps({"command": command}))
    files.attempt_from(NOW - 9 * HOUR, 3)
    (files.run / "recipe.yaml").chmod(0o666)
    with pytest.raises(
        ConfigError, match=r"its alerts.command is not run, because .* anybody may write it; give the command with --command"
    ):
        look(files.run, NOW)
    (files.run / "recipe.yaml").chmod(0o644)
    assert len(look(files.run, NOW).sent) == 1 == len(got(tmp_path))


def test_without_a_command_the_text_is_printed_and_cron_mails_it(files, capsys, clock) -> None:
    files.attempt_from(NOW - 9 * HOUR, 3)
    assert watch.main(["--once", str(files.run)]) == 0
    assert capsys.readouterr().out.startswith(f"{files.run}: NEEDS YOU: not continued since ")
    assert watch.main(["--once", str(files.run)]) == 0 and capsys.readouterr().out == ""


def test_a_run_that_cannot_be_read_is_one_sentence_and_the_others_are_watched(tmp_path, files, capsys) -> None:
    files.attempt_from(NOW - 9 * HOUR, 3)
    (tmp_path / "file").write_text("x")
    broken = RunFiles(tmp_path / "broken")
    (broken.run / "ledger.jsonl").mkdir()
    for run, words in (
        (tmp_path / "none", "no ledger.jsonl"),
        (tmp_path / "file", "no ledger.jsonl"),
        (broken.run, "ledger.jsonl"),
    ):
        assert watch.main(["--once", str(run), str(files.run)]) == 1
        printed = capsys.readouterr()
        assert len(printed.err.splitlines()) == 1 and words in printed.err and "Error: " in printed.err
        assert watch.main([str(run)]) == 1  # a loop over nothing ends at once
        capsys.readouterr()
    assert (files.run / "alerts/sent.json").exists()


def test_a_loop_ends_when_all_runs_are_done_and_complains_once(files, capsys, monkeypatch, command, clock) -> None:
    files.attempt_from(NOW - 9 * HOUR, 3)
    naps = []

    def nap(seconds: float) -> None:
        naps.append(seconds)
        if len(naps) == 3:
            files.event(NOW, "done", step=100, tokens=1)

    monkeypatch.setattr(watch.time, "sleep", nap)
    assert watch.main([str(files.run), "--every", "60", "--command", f"{command}-none"]) == 0
    printed = capsys.readouterr()
    assert set(naps) == {60.0} and len(naps) >= 3
    assert 1 <= printed.err.count("'needs-you' was not sent") <= 2 and printed.out == ""


def test_commands_that_are_none_are_refused_in_the_recipe_and_on_the_command_line() -> None:
    for text, words in (('mail -s "x', "no command line: no closing quotation"), ("  ", "name a program")):
        with pytest.raises(ConfigError, match=words):
            check_alerts(AlertsConfig(command=text))
        with pytest.raises(ConfigError, match=words):
            watch.main(["--once", "run", "--command", text])
    with pytest.raises(ConfigError, match="name a program"):
        split_command("", "--command")


def test_the_page_names_every_event() -> None:
    page = (ROOT / "docs/cluster.md").read_text(encoding="utf-8")
    section = page[page.index("## Alerts") : page.index("## Stop")]
    assert [kind for kind in EVENTS if f"| `{kind}` |" not in section] == []


def test_watch_loads_no_torch() -> None:
    """A call from cron every five minutes must be cheap."""
    code = "import sys, jadeberta.alerts.cli; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=os.environ).returncode == 0


def test_a_disk_that_was_nearly_full_and_is_full_is_another_event(tmp_path, monkeypatch, command) -> None:
    files = RunFiles(tmp_path / "run", checkpoint="{every_steps: 6, keep_last: 0}")
    files.attempt_from(NOW - DAY, 24)
    for free in (490 << 30, 480 << 30, 1 << 20):
        monkeypatch.setattr(facts_module, "look_at_disk", lambda run, free=free: Disk(free, 10 << 30, 1))
        look(files.run, NOW, command)
    assert [event["what"].split(":")[0] for event in got(tmp_path)] == ["the disk will be full in 2.0 days", "the disk is full"]


def test_rows_of_any_kind_make_no_traceback_and_a_run_that_cannot_be_judged_does_not_end_the_watch(
    tmp_path, files, command, capsys, monkeypatch, clock
) -> None:
    files.attempt_from(NOW - 9 * HOUR, 3, job=12)
    for value in (None, [1], {"a": 1}, "x", -1, 1e300, True):
        for event in ("hang", "rollback", "save", "resume", "stop", "energy", value):
            keys = ("step", "from_step", "rank", "host", "status", "reason", "faults", "seconds", "tokens", "gpu_kwh", "slurm")
            files.event(NOW - HOUR, event, **dict.fromkeys(keys, value))
        for event in ("begin", "end"):
            keys = ("action", "reason", "status", "excluded", "users_exclusions", "step")
            files.job(event, NOW - HOUR, **dict.fromkeys(keys, value))
        assert look(files.run, NOW, command).faults == ()
        assert (
            watch.main(["--once", str(files.run)])
            == 0
            == status.main([str(files.run)])
            == status.main([str(files.run), "--json"])
        )
    capsys.readouterr()
    monkeypatch.setattr(watch, "look", lambda run, *_: 1 // 0)
    assert watch.main(["--once", str(files.run), str(files.run)]) == 1
    assert "cannot be judged (ZeroDivisionError" in capsys.readouterr().err
