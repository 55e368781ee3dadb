"""`jadeberta report` writes a page from whatever a run directory holds, with every text escaped and every figure inside as JSON."""

import datetime
import html
import json
import re
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from jadeberta.errors import ConfigError, InputError, OutputError
from jadeberta.report.cli import main, names_of
from jadeberta.report.report_curves import POINTS
from jadeberta.report.report_tiles import tiles
from jadeberta.report.run_facts import read_run_facts
from jadeberta.status.facts import Disk
from jadeberta.status.verdict_words import MONTHS

DAY = 86400.0


def figures(page: Path) -> dict[str, Any]:
    """The JSON inside a page."""
    found = re.search(r'<script type="application/json" id="figures">(.*?)</script>', page.read_text(encoding="utf-8"), re.S)
    assert found
    return json.loads(found[1])


def lines(path: Path, rows: Iterable[dict]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def step(number: int, at: float, attempt: int = 0, **more: Any) -> dict:
    row = {"step": number, "time": at, "step_s": 10.0, "attempt": attempt, "loss": 5.0, "grad_norm": 1.0, "lr": 1e-4}
    return row | {"tokens": 100 * number, "tokens_per_second": 10.0, "skipped": False, "batch_hash": f"{number:016x}"} | more


def event(name: str, at: float, attempt: int = 0, **more: Any) -> dict:
    return {"time": at, "event": name, "attempt": attempt, "host": "n1", "pid": 1, **more}


def evaluation(at: float, number: int, attempt: int = 0, **accuracy: float) -> dict:
    corpora = {name: {"accuracy": value} for name, value in accuracy.items()}
    return event("evaluation", at, attempt, step=number, seconds=5.0, corpora=corpora, whole=True)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run that was killed at step 30 and went on from step 20, done at step 40; 2 ranks, then 4."""
    directory = tmp_path / "run"
    (directory / "checkpoints" / "step-00000020").mkdir(parents=True)
    (directory / "checkpoints" / "step-00000040").mkdir()
    began = time.time() - 3 * DAY
    first = [step(n, began + 60 + 10 * n, loss=1000.0 if n > 20 else 5.0) for n in range(1, 31)]
    second = [step(n, began + 600 + 10 * (n - 20), 1, loss=4.0, skipped=n == 33) for n in range(21, 41)]
    lines(directory / "metrics.jsonl", first + second)
    rows = [event("start", began, world_size=2, launcher="srun", device="cuda")]
    rows += [evaluation(began + 200, 10, wiki=0.25), event("save", began + 270, step=20, stall_s=0.1, write_s=3.0)]
    rows += [event("verified", began + 275, step=20, faults=[]), evaluation(began + 330, 25, wiki=0.9)]
    rows += [
        event("start", began + 580, 1, world_size=4, launcher="srun", device="cuda"),
        event("resume", began + 590, 1, step=20),
    ]
    rows += [event("skip", began + 730, 1, step=33, reason="grad_norm 99 is 40 deviations above 1")]
    rows += [evaluation(began + 780, 38, 1, wiki=0.5, web=0.4), event("save", began + 800, 1, step=40, stall_s=0.2, write_s=2.0)]
    rows += [event("done", began + 805, 1, step=40, tokens=4000)]
    lines(directory / "ledger.jsonl", rows)
    (directory / "recipe.yaml").write_text("training: {max_steps: 40}\ncheckpoint: {keep_last: 2}\nguard: {window: 8}\n")
    return directory


def written(*runs: Path, options: tuple[str, ...] = ()) -> dict[str, Any]:
    assert main([*map(str, runs), *options]) == 0
    return figures(runs[0] / "report.html")


def test_the_page_has_verdict_figures_curves_and_events(run: Path, capsys: pytest.CaptureFixture) -> None:
    document = written(run)
    assert capsys.readouterr().out == f"{run / 'report.html'}\n"
    found = document["runs"][0]
    assert document["format"] == "jadeberta-report" and found["verdict"]["level"] == "done" and found["notes"] == []
    curves = found["curves"]
    assert curves["x"]["step"] == list(range(1, 41)) and max(v for v in curves["loss"]["max"] if v) == 5.0
    assert curves["loss"]["median"][32] is None  # the skipped step
    assert curves["evaluations"]["x"]["step"] == [10, 38] and curves["evaluations"]["corpora"] == {
        "wiki": [0.25, 0.5],
        "web": [None, 0.4],
    }
    assert [(mark["kind"], mark["x"]["step"]) for mark in curves["marks"]] == [("restart", 20), ("skip", 33)]
    assert curves["limit"][-1] == pytest.approx(1 + 10 * 0.3) and curves["limit"][0] is None
    assert [row["step"] for row in found["checkpoints"]] == [40, 20] and found["checkpoints"][1]["verified"]
    assert found["changes"][0][0] == 1 and found["changes"][0][2] == "ranks 2 -> 4"
    text = [line["text"] for line in found["chronicle"]]
    assert text[0] == "Attempt 0 began on n1 with 2 ranks." and "Attempt 0 ended without a record: it was killed." in text
    assert "Attempt 1 began on n1 with 4 ranks; it goes on from step 20." in text and text[-1].startswith("The run is done")
    tiles = {tile["label"]: tile for tile in found["tiles"]}
    assert tiles["Progress"]["value"] == "100.0%" and tiles["Held-out accuracy"]["value"] == "0.4500"
    assert tiles["Verified checkpoint"]["value"] == "step 20" and tiles["Energy"]["value"] == "not measured"
    # 2 ranks for 360 s, 4 ranks for 225 s.
    assert tiles["Device-hours"]["value"] == f"{(2 * 360 + 4 * 225) / 3600:,.1f}"
    assert curves["x"]["gpu_hours"][-1] == pytest.approx((2 * 360 + 4 * 220) / 3600)


def test_the_page_loads_nothing_and_runs_no_script_but_its_own(run: Path) -> None:
    written(run)
    text = (run / "report.html").read_text(encoding="utf-8")
    own = re.sub(r"/\*! https://github.com/leeoniya/uPlot[^*]*\*/|http://www.w3.org/\S*", "", text)
    assert "default-src 'none'" in text and not re.search(r"(?:src|href)\s*=\s*[\"']?(?:https?:)?//", own)
    assert text.count("<script") == 4  # theme, figures, uPlot, page
    assert "Copyright (c) 2022 Leon Sorokin" in text and "The above copyright notice" in text


def test_every_finding_of_the_verdict_is_on_the_page(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = (run / "ledger.jsonl").read_text().splitlines()[:-1]  # never done: not continued
    (run / "ledger.jsonl").write_text("".join(f"{row}\n" for row in rows))
    monkeypatch.setattr("jadeberta.status.facts.look_at_disk", lambda run: Disk(free=1, checkpoint=1 << 30))
    found = written(run)["runs"][0]["verdict"]
    assert found["level"] == "needs-you" and len(found["findings"]) > 1
    text = html.unescape((run / "report.html").read_text(encoding="utf-8"))
    assert found["sentence"] in text and f"Also: {found['findings'][1]['text']}" in text


def test_a_plan_that_was_missed_by_hours_keeps_its_day(run: Path) -> None:
    at = time.time() - 3 * DAY + 1500  # soon after its last row
    planned = datetime.date.fromtimestamp(at) - datetime.timedelta(days=1)
    (run / "recipe.yaml").write_text(f"training: {{max_steps: 400}}\nalerts: {{done_by: '{planned}'}}\n")
    ledger = run / "ledger.jsonl"
    ledger.write_text("".join(ledger.read_text().splitlines(keepends=True)[:-1]))  # it is not done
    found = {tile.label: tile for tile in tiles(read_run_facts(run, at))}
    assert found["Expected end"].before == f"planned: {planned.day} {MONTHS[planned.month - 1]}"


def test_a_public_page_names_no_host_user_or_path(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("USER", "tanaka")
    at = time.time() - 10
    with open(run / "ledger.jsonl", "a") as file:
        slurm = {"job": 7, "hosts": ["gpu-a01.cluster.example", "gpu-a02.cluster.example"]}
        for row in (
            event("start", at, 2, world_size=2, slurm=slurm) | {"host": "gpu-a01.cluster.example"},
            event(
                "hang",
                at + 1,
                2,
                rank=1,
                step=40,
                phase="step",
                reason="gpu-a02 is silent; see ~tanaka/log",
                suspects=[{"host": "gpu-b9"}],
            ),
            event(
                "stop",
                at + 2,
                2,
                status=1,
                reason="ShardError: /data/secret/x.tar: damaged; ask tanaka@example.org or see s3://bucket/x",
            ),
        ):
            file.write(json.dumps(row) + "\n")
    (run / "preflight.json").write_text(
        json.dumps({"hosts": [{"host": "gpu-c3", "gemm_flops_per_second": 1e14}], "unfit": {"gpu-d4": ["slow"]}})
    )
    (run / "recipe.yaml").write_text("training: {max_steps: 50}\ndata: {shards: private/shards}\nalerts: {command: mail boss}\n")
    found = written(run, options=("--public",))["runs"][0]
    text = (run / "report.html").read_text(encoding="utf-8")
    for name in (
        "gpu-a",
        "gpu-b",
        "gpu-c",
        "gpu-d",
        "cluster.example",
        "tanaka",
        "secret",
        "private/",
        "s3:",
        "mail boss",
        str(run.parent),
    ):
        assert name not in text, name
    words = " ".join(line["text"] for line in found["chronicle"])
    assert "host-1" in text and "ShardError: (path): damaged" in words and "tokens/s" in text and found["name"] == "run"
    assert ["training.max_steps", "50"] in found["settings"]


def test_watch_writes_until_the_run_is_done_and_outlasts_a_full_disk(run: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    whole = (run / "ledger.jsonl").read_text()
    (run / "ledger.jsonl").write_text("".join(f"{line}\n" for line in whole.splitlines()[:-1]))
    waits: list[float] = []
    write = Path.write_bytes

    def wait(seconds: float) -> None:
        waits.append(seconds)
        if len(waits) == 1:
            full = OSError(28, "No space left on device")
            monkeypatch.setattr(Path, "write_bytes", lambda self, content: (_ for _ in ()).throw(full))
        else:
            monkeypatch.setattr(Path, "write_bytes", write)
            (run / "ledger.jsonl").write_text(whole)

    monkeypatch.setattr("jadeberta.report.cli.time.sleep", wait)
    assert written(run, options=("--watch", "5"))["runs"][0]["state"] == "done"
    assert waits == [5.0, 5.0] and capsys.readouterr().err.count("No space left") == 1


HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(2)>\"'&"


def test_hostile_texts_are_escaped_everywhere(run: Path) -> None:
    with open(run / "ledger.jsonl", "a") as file:
        for row in (
            event("stop", time.time(), 1, status=1, reason=HOSTILE),
            event("start", time.time(), 2, world_size=1, launcher=HOSTILE, slurm={"job": HOSTILE}) | {"host": HOSTILE},
            event(HOSTILE, time.time(), 2, what=HOSTILE),
            evaluation(time.time(), 41, 2, **{HOSTILE: 0.5}),
        ):
            file.write(json.dumps(row) + "\n")
    (run / "recipe.yaml").write_text(json.dumps({HOSTILE: HOSTILE, "training": {"max_steps": 100}}))
    found = written(run)
    text = (run / "report.html").read_text(encoding="utf-8")
    assert "<img" not in text and text.count("<script") == 4 and text.count("</script>") == 4
    assert any(HOSTILE in line["text"] for line in found["runs"][0]["chronicle"])


WRONG: list[Any] = [None, True, -1, 1e300, "x", [], {}, [[1]], {"a": None}, "9" * 500]


def test_any_value_of_any_field_leaves_a_page(run: Path) -> None:
    fields = (
        "step",
        "attempt",
        "time",
        "corpora",
        "slurm",
        "world_size",
        "seconds",
        "stall_s",
        "status",
        "reason",
        "faults",
        "suspects",
    )
    names = (
        "start",
        "resume",
        "evaluation",
        "save",
        "verified",
        "skip",
        "rollback",
        "hang",
        "stop",
        "set_aside",
        "settings",
        "done",
        "odd",
    )
    ledger, metrics = (run / "ledger.jsonl").read_text(), (run / "metrics.jsonl").read_text()
    for wrong in WRONG:
        rows = [event(name, time.time(), 1, step=40) | {field: wrong} for name in names for field in fields]
        (run / "ledger.jsonl").write_text(ledger + "".join(json.dumps(row) + "\n" for row in rows))
        rows = [step(41, time.time(), 1) | {field: wrong} for field in step(1, 0.0)]
        (run / "metrics.jsonl").write_text(metrics + "".join(json.dumps(row) + "\n" for row in rows) + '{"step": 42, "ti')
        (run / "jobs.jsonl").write_text(
            "".join(json.dumps(event(e, time.time(), job=wrong, excluded=wrong, hosts=wrong)) + "\n" for e in ("begin", "end"))
        )
        (run / "recipe.yaml").write_text(
            json.dumps({"training": wrong, "guard": {"window": wrong}, "phases": [wrong, {"steps": wrong}]})
        )
        found = written(run)["runs"][0]
        assert len(found["curves"]["x"]["step"]) >= 20, wrong


def test_an_empty_or_old_run_leaves_a_page_with_a_sentence(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    found = written(tmp_path)["runs"][0]
    assert any("ledger.jsonl" in note for note in found["notes"]) and any("recipe.yaml" in note for note in found["notes"])
    assert "ledger.jsonl is missing" in capsys.readouterr().err
    lines(tmp_path / "metrics.jsonl", [step(n, 1e9 + n) | {"life": 0} for n in range(1, 5)])
    assert written(tmp_path)["runs"][0]["curves"]["x"]["step"] == [1, 2, 3, 4]
    (tmp_path / "ledger.jsonl").write_bytes(b"\xff\x00\n{")
    written(tmp_path)


def test_clocks_that_step_back_leave_axes_that_rise(run: Path) -> None:
    rows = [step(n, 1e9 + 10 * n - (500 if n > 20 else 0)) for n in range(1, 41)]
    lines(run / "metrics.jsonl", rows)
    x = written(run)["runs"][0]["curves"]["x"]
    assert all(values == sorted(values) for values in x.values())


def test_a_long_run_has_a_thousand_points_with_the_extremes_of_all_steps(run: Path) -> None:
    rows = [step(n, 1e9 + 10 * n, loss=99.0 if n == 3777 else 2.0 + n % 7) for n in range(1, 6001)]
    lines(run / "metrics.jsonl", rows)
    (run / "ledger.jsonl").write_text(json.dumps(event("start", 1e9)) + "\n")
    loss = written(run)["runs"][0]["curves"]["loss"]
    assert (
        len(loss["median"]) == POINTS
        and max(loss["max"]) == 99.0
        and set(loss["min"]) <= {2.0, 3.0, 4.0}
        and max(loss["median"]) < 8
    )


def test_several_runs_are_one_page_in_the_current_directory(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "other").mkdir()
    assert main([str(run), str(tmp_path / "other"), str(run)]) == 0
    assert [each["name"] for each in figures(tmp_path / "report.html")["runs"]] == ["run (1)", "other", "run (2)"]


def test_names_are_as_long_as_they_must_be() -> None:
    assert names_of([Path("/a/x/run"), Path("/a/y/run"), Path("/b/z")]) == ["x/run", "y/run", "z"]


def test_what_cannot_be_done_is_one_sentence(run: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such directory"):
        main([str(tmp_path / "none")])
    with pytest.raises(ConfigError, match="too many"):
        main([str(run)] * 21)
    with pytest.raises(OutputError, match="a directory"):
        main([str(run), "--out", str(tmp_path)])
    with pytest.raises(OutputError, match="cannot be written"):
        main([str(run), "--out", str(run / "recipe.yaml" / "page.html")])


def test_a_page_that_cannot_be_written_leaves_the_old_one(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written(run)
    before = (run / "report.html").read_bytes()
    monkeypatch.setattr(
        "pathlib.Path.write_bytes", lambda self, content: (_ for _ in ()).throw(OSError(28, "No space left on device"))
    )
    with pytest.raises(OutputError, match="No space left"):
        main([str(run)])
    assert (run / "report.html").read_bytes() == before and [p.name for p in run.glob(".report*")] == []


def test_changed_settings_and_another_program_are_told(run: Path) -> None:
    rows = [json.loads(row) for row in (run / "ledger.jsonl").read_text().splitlines()]
    for number, row in enumerate(row for row in rows if row["event"] == "start"):
        row["program"] = {"version": "1.0", "commit": f"{number}abc"}
    at = next(row["time"] for row in rows if row["event"] == "resume")
    changed = {"watchdog.step_s": ["600", "900"], "alerts.command": ["mail a@b.c", "mail d@e.f"]}
    rows.insert(-3, event("settings", at + 1, 1, changed=changed))
    rows.insert(-3, event("profile", at + 100, 1, step=30, steps=3, ranks=[0]))
    lines(run / "ledger.jsonl", rows)
    found = written(run)["runs"][0]
    assert found["changes"][0][2] == "ranks 2 -> 4; commit 0abc -> 1abc" and ["commit", "1abc"] in found["program"]
    assert found["changes"][1][2] == "watchdog.step_s 600 -> 900; alerts.command changed"
    assert "3 steps up to step 30 were profiled." in [line["text"] for line in found["chronicle"]]
    assert "mail" not in (run / "report.html").read_text()


def test_days_and_causes_add_up_to_the_goodput_of_status(run: Path) -> None:
    found = written(run)["runs"][0]
    whole, days = found["hours"]["whole"], found["hours"]["days"]
    for part, seconds in whole.items():
        if part != "unaccounted_s":  # of a day it is what remains, of the run a difference
            assert sum(day["seconds"].get(part, 0.0) for day in days) == pytest.approx(seconds, abs=1.0), part
    (killed, skipped) = found["hours"]["causes"]
    assert killed["cause"].startswith("killed") and killed["lost_steps_s"] == 100.0 and killed["down_s"] == pytest.approx(240.0)
    assert (skipped["count"], skipped["by_itself"]) == (1, 1)
    assert [one["lost_steps"] for one in found["hours"]["attempts"]] == [10, 0]


def test_a_cause_says_how_often_a_person_was_needed(run: Path) -> None:
    at = json.loads((run / "ledger.jsonl").read_text().splitlines()[0])["time"] + 380
    lines(
        run / "jobs.jsonl",
        [event("begin", at - 380, job=1), event("end", at, job=1, action="stop", reason="status 1", excluded=["n7"])],
    )
    found = written(run)["runs"][0]
    assert (found["hours"]["causes"][0]["by_hand"], found["hours"]["causes"][0]["by_itself"]) == (1, 0)
    assert (found["hosts"][0]["host"], found["hosts"][0]["exclusions"]) == ("n7", 1)


def test_steps_taken_again_are_proved_by_their_batch_hashes(run: Path) -> None:
    proof = written(run)["runs"][0]["data"]["proof"]
    assert proof == {"hashed": 40, "again": 10, "same": 10, "after_rollback": 0}
    text = (run / "metrics.jsonl").read_text().replace(f'"{25:016x}"', f'"{99:016x}"', 1)
    (run / "metrics.jsonl").write_text(text)
    assert written(run)["runs"][0]["data"]["proof"]["same"] == 9
    assert "OTHER samples" in (run / "report.html").read_text()


def test_a_slow_host_is_seen_in_the_hours_in_which_it_worked(run: Path) -> None:
    began = 1e9
    rows = [step(n, began + 12 * n, n // 500, step_s=15.0 if n // 500 == 2 else 10.0) for n in range(1, 2000)]
    lines(run / "metrics.jsonl", rows)
    hosts = {0: ["a", "b"], 1: ["a", "c"], 2: ["b", "slow"], 3: ["a", "c"]}
    starts = [
        event("start", began + 12 * 500 * n, n, world_size=2, slurm={"job": n, "hosts": names}) for n, names in hosts.items()
    ]
    lines(run / "ledger.jsonl", starts)
    found = written(run)["runs"][0]
    heat = dict(zip(found["heat"]["hosts"], found["heat"]["levels"], strict=True))
    assert min(level for level in heat["slow"] if level >= 0) >= 5 and max(heat["c"]) <= 2
    assert found["speed"]["all"]["median"] == 10.0 and found["speed"]["all"]["p99"] == 15.0
    assert [(h["host"], h["attempts"]) for h in found["hosts"]] == [("a", 3), ("b", 2), ("c", 2), ("slow", 1)]
