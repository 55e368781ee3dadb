"""`jadeberta publish-metrics`: each viewer gets one clean run, a second call adds nothing, and what was undone is gone."""

import importlib.util
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from jadeberta.errors import ConfigError, InputError, OutputError
from jadeberta.publish import cli, to_prometheus
from jadeberta.publish.clean_run import read_clean_run
from jadeberta.utils.locks import DirectoryLock
from tests.helpers import ROOT
from tests.publish.publishable_run import BEGAN, LOSSES, WORDS, append, event, go_on, make_run, missing, step, undo

NOW = BEGAN + 10_000.0


@pytest.fixture
def run(tmp_path) -> Path:
    return make_run(tmp_path / "large run")


def publish(capsys, run: Path, to: str, *options: str) -> str:
    assert cli.main([str(run), "--to", to, *options]) == 0
    return capsys.readouterr().out.strip()


def files_of(run: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in sorted(run.rglob("*")) if path.is_file()}


def test_the_clean_run_has_each_step_once_and_the_evaluations_that_stayed(run) -> None:
    clean = read_clean_run(run, NOW)
    points = list(clean.points())
    assert {point.step: point.values["train/loss"] for point in points} == LOSSES
    assert [point.step for point in points] == list(LOSSES) and "train/grad_norm" not in points[6].values
    assert points[0].values["speed/goodput"] == pytest.approx(0.5) and points[0].values["progress/tokens"] == 100.0
    assert points[7].values["speed/goodput"] == pytest.approx(70 / 430)  # of 8 steps of 10 s one was skipped
    assert [(e.step, e.row["corpora"]["cc100"]["accuracy"]) for e in clean.evaluations] == [(4, 0.25)]
    figures = list(clean.figures_of_events())
    assert [point.values["events/start"] for point in figures if "events/start" in point.values] == [1.0, 2.0, 3.0]
    assert [point.values["held_out/accuracy/cc100"] for point in figures if "held_out/accuracy/cc100" in point.values] == [0.25]
    assert clean.settings["training.max_steps"] == 20 and clean.settings["checkpoint.every_steps"] == 2
    assert [point.step for point in clean.points(every=4)] == [1, 4, 7, 8]
    moved = run.rename(run.with_name("moved"))
    assert read_clean_run(moved, NOW).id == clean.id


@pytest.mark.parametrize("broken", ["no metrics", "no recipe", "no times", "hostile"])
def test_a_run_of_which_parts_are_missing_or_damaged_is_published_from_what_is_there(run, tmp_path, capsys, broken) -> None:
    if broken == "no metrics":
        (run / "metrics.jsonl").unlink()
    elif broken == "no recipe":
        (run / "recipe.yaml").write_bytes(b"\x00{:")
    elif broken == "no times":
        rows = [orjson.loads(line) for line in (run / "metrics.jsonl").read_bytes().splitlines() if line.endswith(b"}")]
        (run / "metrics.jsonl").unlink()
        append(run / "metrics.jsonl", *({key: value for key, value in row.items() if key != "time"} for row in rows))
    else:
        with open(run / "metrics.jsonl", "ab") as f:
            f.write(
                b'{"step": 1e300}\n{"step": "9"}\n[1]\nnull\n{"step": 9, "loss": "<b>", "lr": 1e400}\n\xff\xfe\n{"step": 10, "loss": 1'
            )
        append(
            run / "ledger.jsonl", {"event": None}, {"event": 3, "time": "x"}, {"event": "evaluation", "corpora": [1], "step": -1}
        )
    for to in ("tensorboard", "prometheus"):
        for _ in range(2):
            said = publish(capsys, run, to, "--out", str(tmp_path / to))
    assert said
    curves = EventAccumulator(str(next((tmp_path / "tensorboard").glob("large run-*")))).Reload()
    expected = [] if broken == "no metrics" else [1, 2, 3, 4, 5, 6, 7, 8]
    assert ([p.step for p in curves.Scalars("train/loss")] if expected else expected) == expected


def test_a_second_call_adds_nothing_to_tensorboard_a_later_one_what_is_new_and_undone_steps_are_gone(
    run, tmp_path, capsys
) -> None:
    before, out = files_of(run), tmp_path / "boards"

    def curve(tag: str) -> list[tuple[int, float]]:
        (folder,) = out.glob("large run-*")
        assert len(list(folder.iterdir())) == 1
        return [
            (p.step, round(p.value, 4)) for p in EventAccumulator(str(folder), size_guidance={"scalars": 0}).Reload().Scalars(tag)
        ]

    assert publish(capsys, run, "tensorboard", "--out", str(out)).endswith("written")
    assert curve("train/loss") == list(LOSSES.items()) and curve("held_out/accuracy/cc100") == [(4, 0.25)]
    assert curve("train/grad_norm") == [(n, 0.5) for n in LOSSES if n != 7] and curve("system/world_size")[0] == (0, 2.0)
    (file,) = out.glob("*/events*")
    content = file.read_bytes()
    assert publish(capsys, run, "tensorboard", "--out", str(out)).endswith("nothing is new") and file.read_bytes() == content
    assert files_of(run) == before
    go_on(run)
    file.write_bytes(content[:-5])  # an earlier call was killed within a record
    assert "bytes are new" in publish(capsys, run, "tensorboard", "--out", str(out))
    assert file.read_bytes()[: len(content)] == content and curve("held_out/accuracy/cc100") == [(4, 0.25), (10, 0.5)]
    undo(run)
    assert "written anew" in publish(capsys, run, "tensorboard", "--out", str(out))
    assert curve("train/loss") == [(n, LOSSES[n]) for n in range(1, 7)] + [(7, 1.5)]
    assert curve("held_out/accuracy/cc100") == [(4, 0.25)] and curve("events/start")[-1] == (6, 4.0)
    assert publish(capsys, run, "tensorboard", "--out", str(out)).endswith("nothing is new")


def test_a_run_of_200_attempts_is_one_run(tmp_path, capsys) -> None:
    run = tmp_path / "run"
    run.mkdir()
    for attempt in range(200):
        at = 100.0 * attempt
        resume = [event("resume", attempt, at + 1, step=2 * attempt)] if attempt else []
        append(run / "ledger.jsonl", event("start", attempt, at, world_size=8), *resume)
        # Three steps each, of which the next attempt takes up after the second.
        append(run / "metrics.jsonl", *(step(2 * attempt + n, attempt, at + 10 + 10 * n, float(attempt)) for n in (1, 2, 3)))
    points = list(read_clean_run(run, NOW).points())
    assert [point.step for point in points] == list(range(1, 402))
    assert [point.values["progress/attempt"] for point in points[:-1]] == [float(n // 2) for n in range(400)]


def promtool() -> str | None:
    return os.environ.get("PROMTOOL") or shutil.which("promtool")


def parsed(text: str) -> dict[str, dict[str, float]]:
    """Samples by name and labels, read by prometheus_client's parser where it is installed, else line by line."""
    found: dict[str, dict[str, float]] = {}
    for line in text.splitlines():
        if not line.startswith("#"):
            name, labels = line.split("{", 1)
            labels, value = labels.rsplit("} ", 1)
            assert labels not in found.setdefault(name, {})
            found[name][labels] = float(value)
    return found


def test_prometheus_gets_every_figure_with_help_type_and_unit(run, tmp_path, capsys) -> None:
    go_on(run)
    said = publish(capsys, run, "prometheus", "--out", str(tmp_path / "text"))
    (path,) = (tmp_path / "text").iterdir()
    assert said == f"{path}: written" and path.name.startswith("jadeberta-large_run-") and path.stat().st_mode & 0o777 == 0o644
    samples = parsed(path.read_text())
    flat = {name.removeprefix("jadeberta_"): value for name, value in samples.items()}

    def only(name: str) -> float:
        (value,) = flat[name].values()
        return value

    assert (only("step"), only("planned_steps"), only("attempts"), only("rollbacks"), only("hangs")) == (10, 20, 3, 1, 1)
    assert only("trained_tokens") == 1000 and only("learning_rate") == 1e-4 and only("gradient_norm") == 0.5
    assert sorted(flat["held_out_accuracy_ratio"].values()) == [0.25, 0.5]
    assert only("sign_of_life_timestamp_seconds") == BEGAN + 451 and only("checkpoint_timestamp_seconds") == BEGAN + 31
    assert sum(flat["time_seconds"].values()) > 0 and only("up") == 0
    assert set(flat) <= set(to_prometheus.HELP)
    first = path.read_text()
    publish(capsys, run, "prometheus", "--out", str(tmp_path / "text"))
    assert len(list((tmp_path / "text").iterdir())) == 1
    assert [line.split(" ")[0] for line in path.read_text().splitlines()] == [line.split(" ")[0] for line in first.splitlines()]


def test_labels_of_prometheus_are_escaped(tmp_path, capsys) -> None:
    run = make_run(tmp_path / 'a"b\\c\nd')
    text = to_prometheus.render(read_clean_run(run, NOW))
    assert 'run="a\\"b\\\\c\\nd"' in text and all(line.startswith(("jadeberta_", "# ")) for line in text.splitlines())


@pytest.mark.skipif(promtool() is None, reason="promtool, of the package prometheus, is neither in PATH nor in PROMTOOL")
def test_promtool_finds_no_fault_in_the_text(run) -> None:
    go_on(run)
    text = to_prometheus.render(read_clean_run(run, NOW))
    done = subprocess.run([str(promtool()), "check", "metrics"], input=text, capture_output=True, text=True)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


def test_the_dashboard_asks_for_metrics_that_are_written_and_its_panels_do_not_overlap(run) -> None:
    go_on(run)
    written = set(parsed(to_prometheus.render(read_clean_run(run, NOW))))
    known = {to_prometheus.PREFIX + name for name in to_prometheus.HELP}
    board = orjson.loads((ROOT / "jadeberta/publish/grafana-dashboard.json").read_bytes())
    cells: set[tuple[int, int]] = set()
    asked: set[str] = set()
    for panel in board["panels"]:
        place = panel["gridPos"]
        own = {(x, y) for x in range(place["x"], place["x"] + place["w"]) for y in range(place["y"], place["y"] + place["h"])}
        assert place["x"] + place["w"] <= 24 and not own & cells
        cells |= own
        for target in panel.get("targets", []):
            asked |= {word for word in np.unique(_words(target["expr"])) if word.startswith("jadeberta_")}
            assert target["datasource"]["uid"] == "${datasource}"
    assert asked <= known and {"jadeberta_goodput_ratio", "jadeberta_held_out_accuracy_ratio"} <= asked <= written | known
    assert len({panel["id"] for panel in board["panels"]}) == len(board["panels"])
    assert [variable["name"] for variable in board["templating"]["list"]] == ["datasource", "run"]


def _words(expression: str) -> list[str]:
    return "".join(c if c.isalnum() or c == "_" else " " for c in expression).split()


@missing["mlflow"]
def test_mlflow_gets_one_run_a_second_call_adds_nothing_and_undone_steps_are_gone(run, tmp_path, capsys, monkeypatch) -> None:
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    from mlflow.tracking import MlflowClient

    out = tmp_path / "store"
    client = MlflowClient(tracking_uri=out.as_uri())

    def state() -> tuple[Any, dict[int, float]]:
        (found,) = client.search_runs([client.get_experiment_by_name("deberta").experiment_id])
        history = client.get_metric_history(found.info.run_id, "train/loss")
        assert len({p.step for p in history}) == len(history)
        return found, {p.step: p.value for p in history}

    options = ("--out", str(out), "--project", "deberta")
    publish(capsys, run, "mlflow", *options)
    first, losses = state()
    assert losses == LOSSES and first.info.run_name == "large run" and first.data.params["training.max_steps"] == "20"
    assert first.data.metrics["held_out/accuracy/cc100"] == 0.25 and first.info.status == "KILLED"
    assert first.info.start_time == int(1000 * BEGAN)
    assert publish(capsys, run, "mlflow", *options).endswith("nothing is new")
    assert state()[1] == LOSSES
    go_on(run)
    publish(capsys, run, "mlflow", *options)
    second, losses = state()
    assert losses == LOSSES | {9: 2.3, 10: 2.2} and second.info.run_id == first.info.run_id
    assert [p.value for p in client.get_metric_history(second.info.run_id, "held_out/accuracy/cc100")] == [0.25, 0.5]
    undo(run)
    assert "replaces the old one" in publish(capsys, run, "mlflow", *options)
    third, losses = state()
    assert losses == {n: LOSSES[n] for n in range(1, 7)} | {7: 1.5} and third.info.run_id != first.info.run_id
    # A call that was ended within a batch: nobody knows what has arrived.
    client.set_tag(third.info.run_id, "jadeberta.published", '{"busy": true}')
    publish(capsys, run, "mlflow", *options)
    assert state()[1] == losses and state()[0].info.run_id != third.info.run_id


def records(content: bytes) -> Iterator[bytes]:
    """Records of a file of W&B: a header of 7 bytes, then LevelDB's log format, whose blocks have 32 KiB."""
    assert content.startswith(b":W&B")
    place, record = 7, b""
    while place + 7 <= len(content):
        if 32768 - place % 32768 < 7:
            place += 32768 - place % 32768
            continue
        length, kind = int.from_bytes(content[place + 4 : place + 6], "little"), content[place + 6]
        record += content[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # whole, or the last part
            yield record
            record = b""


def read_offline(file: Path) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Rows of the history and the settings in a file of W&B."""
    from wandb.proto import wandb_internal_pb2

    rows, config = [], {}
    for content in records(file.read_bytes()):
        record = wandb_internal_pb2.Record()
        record.ParseFromString(content)
        if record.WhichOneof("record_type") == "history":
            rows.append({(i.key or "/".join(i.nested_key)): orjson.loads(i.value_json) for i in record.history.item})
        elif record.WhichOneof("record_type") == "run":
            config = {item.key: orjson.loads(item.value_json) for item in record.run.config.update}
    return rows, config


@missing["wandb"]
def test_wandb_gets_one_offline_run_a_second_call_adds_nothing_and_undone_steps_are_gone(
    run, tmp_path, capsys, monkeypatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    out = tmp_path / "out"

    def losses() -> dict[int, float]:
        (file,) = out.glob("wandb/offline-run-*/run-*.wandb")
        rows, config = read_offline(file)
        assert config["training.max_steps"] == 20 and [row["_step"] for row in rows] == sorted({row["_step"] for row in rows})
        assert next(row["held_out/accuracy/cc100"] for row in rows if "held_out/accuracy/cc100" in row) == 0.25
        return {row["_step"]: row["train/loss"] for row in rows if "train/loss" in row}

    said = publish(capsys, run, "wandb", "--out", str(out))
    assert "wandb sync" in said and losses() == LOSSES
    (place,) = out.glob("wandb/offline-run-*")
    before = files_of(place / "files"), *(path.read_bytes() for path in place.glob("*.wandb"))
    assert publish(capsys, run, "wandb", "--out", str(out)).endswith("nothing is new")
    assert (files_of(place / "files"), *(path.read_bytes() for path in place.glob("*.wandb"))) == before
    undo(run)
    (out / "wandb/.jadeberta-new-x/wandb").mkdir(parents=True)  # an earlier call was killed
    monkeypatch.setenv("WANDB_MODE", "disabled")
    monkeypatch.setenv("WANDB_RUN_ID", "another")
    publish(capsys, run, "wandb", "--out", str(out))
    assert not (out / "wandb/.jadeberta-new-x").exists()
    assert losses() == {n: LOSSES[n] for n in range(1, 7)} | {7: 1.5} and list(out.glob("wandb/offline-run-*")) == [place]


@pytest.mark.parametrize("name", ["wandb", "mlflow"])
def test_a_missing_package_is_one_sentence_with_the_command_that_installs_it(run, tmp_path, monkeypatch, name) -> None:
    monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setattr(importlib.util, "find_spec", lambda module: None)
    with pytest.raises(
        ConfigError, match=rf"needs the package {name}, which is not installed; pip install 'jadeberta\[{name}\]'"
    ):
        cli.main([str(run), "--to", name, "--out", str(tmp_path / "out")])


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--to", "tensorboard"], "--to tensorboard writes files; name their directory with --out"),
        (["--to", "prometheus", "--out", "RUN"], "the run itself writes there; choose another directory"),
        (["--to", "tensorboard", "--out", "RUN/tensorboard"], "the run itself writes there"),
        (["--to", "tensorboard", "--out", "x", "--every", "0"], "'0' is not a whole number of at least 1"),
        (["--to", "tensorboard", "--out", "x", "--every", "²"], "is not a whole number"),
        (["--to", "wandb", "--project", "a/b"], "--project is empty, longer than 128 characters, or holds characters"),
        (["--to", "comet"], "invalid choice: 'comet'"),
    ],
)
def test_options_that_cannot_be_followed_are_refused(run, options, words) -> None:
    with pytest.raises(ConfigError, match=words):
        cli.main([str(run), *(option.replace("RUN", str(run)) for option in options)])


def test_no_run_a_place_that_cannot_be_written_and_a_second_call_at_once_are_one_sentence(run, tmp_path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="no ledger"):
        cli.main([str(tmp_path), "--to", "prometheus", "--out", str(tmp_path / "out")])
    with pytest.raises((OutputError, ConfigError), match=r"cannot be written|Choose another"):
        cli.main([str(run), "--to", "prometheus", "--out", str(tmp_path / "file")])
    program = "import sys; from pathlib import Path; from jadeberta.utils.locks import DirectoryLock\n"
    program += "lock = DirectoryLock(Path(sys.argv[1]), '--out'); print('held', flush=True); sys.stdin.read()"
    command = [sys.executable, "-c", program, str(tmp_path / "busy")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT) as other:
        assert other.stdout is not None and other.stdout.readline() == "held\n"
        with pytest.raises(ConfigError, match="works there already"):
            cli.main([str(run), "--to", "tensorboard", "--out", str(tmp_path / "busy")])
        other.communicate("")
    DirectoryLock(tmp_path / "busy", "--out").release()


def test_hostile_words_reach_the_viewers_as_words(run, tmp_path, capsys) -> None:
    publish(capsys, run, "tensorboard", "--out", str(tmp_path / "out"))
    board = EventAccumulator(str(next((tmp_path / "out").glob("large*")))).Reload()
    (hang,) = board.Tensors("events/hang")
    assert b"<script>" in hang.tensor_proto.string_val[0] and "\n" in WORDS and b"\n" not in hang.tensor_proto.string_val[0]


@missing["wandb"]
def test_a_file_of_wandb_that_lacks_rows_is_not_taken_for_whole(run, tmp_path, capsys) -> None:
    from jadeberta.publish.to_wandb import _require_whole

    publish(capsys, run, "wandb", "--out", str(tmp_path / "out"))
    (file,) = (tmp_path / "out").glob("wandb/offline-run-*/run-*.wandb")
    rows = len(read_offline(file)[0])
    _require_whole(file, rows)
    file.write_bytes(file.read_bytes()[:2000])
    with pytest.raises(OSError, match=rf"of {rows} rows have arrived, as on a full disk"):
        _require_whole(file, rows)
