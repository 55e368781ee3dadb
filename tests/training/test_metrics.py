"""Metrics of a run: FLOPs against torch's own counter, files that survive a cut line, and sinks beside them."""

import errno
import logging
import os
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import orjson
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.utils.flop_counter import FlopCounterMode
from transformers import DebertaV2Config

from jadeberta.config import ModelConfig, load_recipe
from jadeberta.errors import ConfigError
from jadeberta.model import build
from jadeberta.model.replaced_tokens import ReplacedTokenHead
from jadeberta.training import sinks
from jadeberta.training.ledger import Ledger, in_words, next_attempt
from jadeberta.training.metrics import MetricsWriter, step_flops_per_token, training_flops_per_token
from jadeberta.training.patient_file import PatientFile
from jadeberta.utils.json_lines import read_jsonl
from tests.helpers import ROOT


@pytest.mark.parametrize("head_share", [1.0, 0.25])
def test_flops_per_token_equal_what_torch_counts_in_hugging_faces_model(head_share) -> None:
    config = ModelConfig(
        vocab_size=500, hidden_size=64, num_hidden_layers=2, num_attention_heads=4, attention_head_size=16, intermediate_size=128,
        max_position_embeddings=128, position_buckets=32, pooler_hidden_size=64, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
    )  # fmt: skip
    model = build(config.hugging_face(), attention="eager")
    ids = torch.randint(5, 500, (3, 128))
    index = torch.arange(int(3 * 128 * head_share))
    with FlopCounterMode(display=False) as counter:
        model(ids, masked_index=index, labels=ids.flatten()[index]).loss.backward()
    expected = counter.get_total_flops() / ids.numel()
    assert training_flops_per_token(config, 128, 3, head_share) == pytest.approx(expected, rel=0.01)


def test_the_large_model_costs_2_352_gflop_a_token_with_the_whole_head_and_2_180_with_the_masked() -> None:
    model = load_recipe(ROOT / "recipes/large.yaml").model
    assert training_flops_per_token(model, 512, 18, 1.0) / 1e9 == pytest.approx(2.352, abs=0.001)
    assert training_flops_per_token(model, 512, 18, 0.15) / 1e9 == pytest.approx(2.180, abs=0.001)


def test_replaced_token_detection_costs_a_generator_an_encoder_and_what_torch_counts_in_the_head() -> None:
    recipe = load_recipe(ROOT / "recipes/large_v3.yaml")
    half = replace(recipe.model, num_hidden_layers=12)
    head = ReplacedTokenHead(DebertaV2Config(hidden_size=1024))
    with FlopCounterMode(display=False) as counter:
        head(torch.zeros(2, 16, 1024, requires_grad=True)).sum().backward()
    models = training_flops_per_token(half, 512, 12, 0.15) + training_flops_per_token(recipe.model, 512, 12, 0.0)
    assert step_flops_per_token(recipe, 512, 12, 0.15) == pytest.approx(models + counter.get_total_flops() / 32, rel=1e-4)
    assert step_flops_per_token(recipe, 512, 12, 0.15) / 1e9 == pytest.approx(3.245, abs=0.001)


def test_a_line_cut_by_a_kill_is_left_out_and_spoils_no_later_line(tmp_path) -> None:
    path = tmp_path / "ledger.jsonl"
    Ledger(path, 0).write("start")
    with open(path, "ab") as f:
        f.write(b'{"event": "sa')
    Ledger(path, 1).write("start")
    assert [(row["event"], row["attempt"], row["life"]) for row in read_jsonl(path)] == [("start", 0, 0), ("start", 1, 1)]
    assert next_attempt(path) == 2


def test_metrics_are_appended_after_a_cut_line(tmp_path) -> None:
    (tmp_path / "metrics.jsonl").write_bytes(b'{"step": 1}\n{"st')
    writer = MetricsWriter(tmp_path, sinks=[], first_step=1)
    writer.write({"step": 2})
    writer.close()
    assert read_jsonl(tmp_path / "metrics.jsonl") == [{"step": 1}, {"step": 2}]
    assert orjson.loads((tmp_path / "metrics.jsonl").read_bytes().splitlines()[-1]) == {"step": 2}


@pytest.fixture
def disk(monkeypatch) -> Iterator[dict[str, int]]:
    """A disk that takes `free` bytes more; -1: any number."""
    state, real = {"free": -1}, os.write

    def write(descriptor: int, data: bytes) -> int:
        if state["free"] == 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        size = len(data) if state["free"] < 0 else min(len(data), state["free"])
        state["free"] -= size if state["free"] > 0 else 0
        return real(descriptor, data[:size])

    monkeypatch.setattr("jadeberta.training.patient_file.os.write", write)
    return state


@pytest.mark.parametrize("free", [0, 5, 14])
def test_rows_that_a_full_disk_does_not_take_are_written_later_in_their_order_and_it_is_said_once(
    tmp_path, disk, messages, free
) -> None:
    writer = MetricsWriter(tmp_path, sinks=["tensorboard"], first_step=0)
    writer.write({"step": 1, "loss": 1.0})
    disk["free"] = free
    for step in (2, 3):
        writer.write({"step": step, "loss": 1.0})
    disk["free"] = -1
    writer.write({"step": 4, "loss": 1.0})
    writer.close()
    assert [row["step"] for row in read_jsonl(tmp_path / "metrics.jsonl")] == [1, 2, 3, 4]
    assert messages == ["metrics cannot be written (No space left on device); they are kept in memory and written later"]
    curves = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [point.step for point in curves.Scalars("train/loss")] == [1, 2, 3, 4]


def test_a_run_starts_on_a_full_disk_and_says_at_its_end_how_many_rows_are_lost(tmp_path, disk, messages, capfd) -> None:
    disk["free"] = 0
    writer = MetricsWriter(tmp_path, sinks=["tensorboard"], first_step=0)
    for step in (1, 2):
        writer.write({"step": step, "loss": 1.0})
    writer.close()
    assert len(messages) == 3 and "2 rows of metrics are lost" in messages[-1]
    assert "Traceback" not in capfd.readouterr().err


@pytest.mark.parametrize("how", ["moved", "removed"])
def test_a_file_that_is_moved_or_removed_while_it_is_written_is_made_again(tmp_path, how) -> None:
    path = tmp_path / "metrics.jsonl"
    writer = MetricsWriter(tmp_path, sinks=[], first_step=0)
    writer.write({"step": 1})
    path.rename(tmp_path / "old") if how == "moved" else path.unlink()
    writer.write({"step": 2})
    writer.close()
    assert read_jsonl(path) == [{"step": 2}]


def test_memory_for_rows_is_bounded_and_what_finds_no_place_is_counted(tmp_path, disk) -> None:
    disk["free"] = 0
    file = PatientFile(tmp_path / "file", limit=10)
    for _ in range(3):
        with pytest.raises(OSError, match="No space left"):
            file.write(b"1234\n")
    assert (file.waiting, file.dropped) == (2, 1)
    disk["free"] = -1
    file.flush()
    assert file.path.read_bytes() == b"1234\n" * 2


class Memory(sinks.MetricsSink):
    """A sink as docs/extend.md has it, which fails where it is told to."""

    opened: ClassVar[list["Memory"]] = []
    fails_at = 0

    def __init__(self, run_dir: Path, first_step: int) -> None:
        self.rows: list[tuple[int, dict]] = [(first_step, {})]
        self.is_closed = False
        self.opened.append(self)

    def write(self, step: int, values: dict[str, Any]) -> None:
        if step == self.fails_at:
            raise ConnectionError("no route to host")
        self.rows.append((step, values))

    def close(self) -> None:
        self.is_closed = True


@pytest.fixture
def memory_sink(monkeypatch) -> type[Memory]:
    """The sink as a module of the package, `memory`."""
    monkeypatch.setattr(Memory, "opened", [])
    monkeypatch.setitem(sys.modules, "jadeberta.training.sinks.memory", SimpleNamespace(Sink=Memory))
    return Memory


def test_a_sink_is_found_by_its_name_and_gets_every_step(tmp_path, memory_sink) -> None:
    writer = MetricsWriter(tmp_path, ["memory"], first_step=4)
    for step in (5, 6):
        writer.write({"step": step, "loss": 1.0, "mfu": None})
    writer.close()
    (sink,) = memory_sink.opened
    assert sink.rows == [(4, {}), (5, {"step": 5, "loss": 1.0, "mfu": None}), (6, {"step": 6, "loss": 1.0, "mfu": None})]
    assert sink.is_closed and [row["step"] for row in read_jsonl(tmp_path / "metrics.jsonl")] == [5, 6]


@pytest.fixture
def messages() -> Iterator[list[str]]:
    """Messages of the metrics' logger; a handler of our own, because whether records reach the root logger depends on earlier tests."""
    found: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: found.append(record.getMessage())  # type: ignore[method-assign]
    logger = logging.getLogger("jadeberta.training.metrics")
    logger.addHandler(handler)
    yield found
    logger.removeHandler(handler)


def test_a_sink_that_fails_is_reported_once_and_the_record_goes_on(tmp_path, memory_sink, monkeypatch, messages) -> None:
    monkeypatch.setattr(memory_sink, "fails_at", 2)
    writer = MetricsWriter(tmp_path, ["memory", "tensorboard"], first_step=0)
    for step in (1, 2, 3):
        writer.write({"step": step, "loss": 1.0})
    writer.close()
    (sink,) = memory_sink.opened
    assert [step for step, _ in sink.rows] == [0, 1]
    assert messages == ["metrics sink memory failed (ConnectionError: no route to host); training goes on without it"]
    assert len(read_jsonl(tmp_path / "metrics.jsonl")) == 3 and list((tmp_path / "tensorboard").glob("events.*"))


def test_a_sink_that_cannot_be_opened_ends_no_run(tmp_path, monkeypatch, messages) -> None:
    monkeypatch.setitem(sys.modules, "jadeberta.training.sinks.broken", SimpleNamespace())
    writer = MetricsWriter(tmp_path, ["broken"], first_step=0)
    writer.write({"step": 1})
    writer.close()
    assert len(messages) == 1 and "metrics sink broken failed (AttributeError" in messages[0]
    assert len(read_jsonl(tmp_path / "metrics.jsonl")) == 1


def test_tensorboard_has_a_curve_for_each_metric_that_was_measured(tmp_path) -> None:
    writer = MetricsWriter(tmp_path, ["tensorboard"], first_step=0)
    for step in (1, 2):
        writer.write({"step": step, "loss": 3.0 - step, "mfu": None, "batch_hash": "ab"})
    writer.close()
    curves = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert curves.Tags()["scalars"] == ["train/loss"]
    assert [(point.step, point.value) for point in curves.Scalars("train/loss")] == [(1, 2.0), (2, 1.0)]


EVALUATION = {
    "event": "evaluation", "step": 2, "seconds": 1.0, "time": 1.0, "attempt": 0, "pid": 1, "host": "n1",
    "corpora": {"cc100": {"accuracy": 0.25, "loss": 3.5, "masked_tokens": 80.0}, "wikipedia": {"accuracy": float("nan"), "loss": 3.0}},
}  # fmt: skip


def test_tensorboard_has_held_out_accuracy_by_corpus_goodput_and_each_event_as_a_line(tmp_path) -> None:
    meter = SimpleNamespace(after_step=lambda row: 0.5 + row["step"] / 10, after_rollback=lambda: None)
    writer = MetricsWriter(tmp_path, ["tensorboard"], first_step=0, goodput=meter)
    for step in (1, 2):
        writer.write({"step": step, "loss": 1.0, "grad_norm": 0.5, "mfu": 0.25})
    writer.event(EVALUATION)
    writer.event({"event": "requeue", "reason": "SIGUSR1 <b>\udc80", "status": 11})
    writer.close()
    curves = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    expected = {"held_out/accuracy/cc100", "held_out/loss/cc100", "held_out/loss/wikipedia"}
    assert {tag for tag in curves.Tags()["scalars"] if tag.startswith("held_out")} == expected
    assert [(point.step, point.value) for point in curves.Scalars("held_out/accuracy/cc100")] == [(2, 0.25)]
    assert [round(point.value, 3) for point in curves.Scalars("speed/goodput")] == [0.6, 0.7]
    assert [point.value for point in curves.Scalars("speed/mfu")] == [0.25, 0.25]
    (asked,) = curves.Tensors("events/requeue")
    assert asked.step == 2 and asked.tensor_proto.string_val == [b"requeue, reason: SIGUSR1 <b>?, status: 11"]
    assert "goodput" not in read_jsonl(tmp_path / "metrics.jsonl")[0]


def test_after_a_roll_back_the_curves_hold_the_new_steps_alone(tmp_path) -> None:
    gone_back: list[int] = []
    meter = SimpleNamespace(after_step=lambda row: None, after_rollback=lambda: gone_back.append(1))
    writer = MetricsWriter(tmp_path, ["tensorboard"], first_step=0, goodput=meter)
    for step in (1, 2, 3):
        writer.write({"step": step, "loss": 1.0})
    writer.event({**EVALUATION, "step": 3})
    writer.event({"event": "rollback", "step": 1, "from_step": 3})
    writer.write({"step": 2, "loss": 2.0})
    writer.close()
    curves = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [(point.step, point.value) for point in curves.Scalars("train/loss")] == [(1, 1.0), (2, 2.0)]
    assert curves.Scalars("held_out/loss/cc100") == [] and gone_back == [1]


def test_what_the_ledger_writes_reaches_its_listener_also_where_the_disk_takes_nothing(tmp_path) -> None:
    ledger, heard = Ledger(tmp_path / "ledger.jsonl", 3), []
    ledger.listener = heard.append
    ledger.write("save", step=5)
    (tmp_path / "ledger.jsonl").unlink()
    (tmp_path / "ledger.jsonl").mkdir()
    ledger.write("save_failed", step=6, error="x" * 1000)
    assert [(row["event"], row["step"], row["attempt"]) for row in heard] == [("save", 5, 3), ("save_failed", 6, 3)]
    assert in_words(heard[1]).startswith("save_failed, host: ") and len(in_words(heard[1])) < 300


def test_an_unknown_sink_is_refused_with_those_there_are() -> None:
    sinks.require_known_sinks(["tensorboard"])
    with pytest.raises(ConfigError, match=r"logging\.sinks holds 'wandb', which is no metrics sink; there are: .*tensorboard"):
        sinks.require_known_sinks(["tensorboard", "wandb"])
