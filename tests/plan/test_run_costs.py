"""What a run takes beside its days: each figure against an independent count, and every way to be asked for nonsense."""

import json
from pathlib import Path

import orjson
import pytest

from jadeberta.checkpoint.commit import prunable
from jadeberta.config import load_recipe
from jadeberta.errors import ConfigError, OutputError
from jadeberta.plan import run_costs
from jadeberta.plan.cli import main
from jadeberta.plan.preprocess_hours import EXTRACT, SEGMENT, TRAIN_SECONDS, TRAIN_SECONDS_A_MB, core_hours, rates_of
from jadeberta.training.metrics import MetricsWriter
from preprocess import estimate
from tests.helpers import ROOT, make_recipe, make_shards

LARGE = str(ROOT / "recipes" / "large.yaml")
GIVEN = (
    "--tokens-per-second-per-gpu", "14200", "--mtbf-node-hours", "1000000000", "--queue-seconds", "0", "--gpu-watts", "500", "--pue", "1.1",
)  # fmt: skip


def planned(capsys, *arguments: str, config: str = LARGE) -> dict:
    assert main(["--config", config, "--json", *arguments]) == 0
    return json.loads(capsys.readouterr().out)


def test_a_plan_of_given_figures_has_no_range_and_energy_is_their_product(capsys) -> None:
    plan = planned(capsys, *GIVEN)
    days = plan["days_range"]
    assert days["value"] == plan["choices"]["recipe"]["days"] and days["high"] - days["low"] < 0.01 * days["value"]
    hours = plan["gpu_hours"]["value"]
    assert hours == pytest.approx(days["value"] * 24 * 8)  # nothing waits in a queue
    assert plan["energy_kwh"]["value"] == pytest.approx(hours * 0.5 * 1.1)
    assert plan["energy_kwh"]["low"] == pytest.approx(plan["gpu_hours"]["low"] * 0.5 * 1.1)


def test_what_is_assumed_has_a_range_and_the_queue_holds_no_gpu(capsys) -> None:
    plan = planned(capsys)
    days, energy = plan["days_range"], plan["energy_kwh"]
    # A third of the peak is assumed; the published run reached a tenth.
    assert days["low"] < 0.7 * days["value"] and days["high"] > 2.9 * days["value"]
    assert energy["low"] < 0.4 * energy["value"] and energy["high"] > 4 * energy["value"]
    waits = planned(capsys, "--queue-seconds", "36000")
    assert waits["days_range"]["value"] > 1.2 * days["value"]
    assert waits["gpu_hours"]["value"] == pytest.approx(plan["gpu_hours"]["value"], rel=0.02)
    assert waits["inputs"]["gpu_watts"]["value"] == 400 and "half of it" in waits["inputs"]["gpu_watts"]["source"]


@pytest.mark.parametrize(("every", "last", "each"), [(2, 3, 0), (2, 3, 10), (5, 1, 10), (3, 4, 7), (2, 0, 0)])
def test_the_disk_holds_the_checkpoints_that_pruning_leaves(tmp_path: Path, every: int, last: int, each: int) -> None:
    keep = {"every_steps": every, "keep_last": last, "keep_every": each}
    recipe = load_recipe(
        make_recipe(tmp_path / "r.yaml", tmp_path, tmp_path / "run", checkpoint=keep, training={"max_steps": 60})
    )
    there: list[Path] = []
    most = 0
    for step in range(every, 61, every):
        most = max(most, len(there) + 1)  # the old ones are there until the new one is verified
        there.append(tmp_path / f"step-{step:08d}")
        for gone in prunable(there, last, each, lambda path: True):
            there.remove(gone)
    # The newest checkpoints may be multiples of keep_every too.
    kept = run_costs.kept_checkpoints(recipe)
    assert most <= kept + 1 <= most + 1 and len(there) <= kept


def test_a_step_takes_the_bytes_that_the_plan_reckons_with(tmp_path: Path) -> None:
    row = {
        "loss": 2.1234567890123, "masked_accuracy": 0.61234567890123, "masked_tokens": 176947, "lr": 6.123456789e-05,
        "grad_norm": 0.41234567890123, "skipped": False, "tokens": 145632345678, "set_aside": 0, "tokens_per_second": 113601.23456789,
        "positions_per_second": 113601.23456789, "mfu": 0.0991234567890123, "mfu_with_padding": 0.0991234567890123,
        "data_wait_s": 0.00123456789012, "save_wait_s": 0.0, "step_s": 10.38412345678901, "epoch": 3, "batch_hash": "0123456789abcdef",
        "attempt": 12, "life": 12, "time": 1764420000.123456,
    }  # fmt: skip
    writer = MetricsWriter(tmp_path, ["tensorboard"], 0)
    steps = 200
    for step in range(100_000, 100_000 + steps):
        writer.write({"step": step, **row})
    writer.close()
    assert (tmp_path / "metrics.jsonl").stat().st_size / steps == pytest.approx(run_costs.METRICS_BYTES, rel=0.1)
    events = sum(path.stat().st_size for path in tmp_path.glob("tensorboard/**/*") if path.is_file())
    assert events / steps == pytest.approx(run_costs.TENSORBOARD_BYTES, rel=0.1)


def test_core_hours_are_those_of_the_page_and_rates_those_that_were_measured() -> None:
    hours = core_hours(rates_of(load_recipe(LARGE)), run_costs.PUBLISHED_GB)
    likely = {stage: each[0] for stage, each in hours.items()}
    assert likely == pytest.approx({"extract": 1.9, "segment": 93, "tokenizer": 1.9, "pack": 2.6}, rel=0.03)
    assert sum(likely.values()) == pytest.approx(100, rel=0.02)
    rows = orjson.loads((ROOT / "bench/results/preprocess-cpu-2026-11.json").read_bytes())["parts"]["stages"]["rows"]
    measured = {row["measure"].split(":")[0]: row["value"] for row in rows if row["measure"].endswith("text, one rank")}
    assert (EXTRACT["rows"].value, SEGMENT["mecab"].value) == pytest.approx((measured["extract"], measured["segment"]), rel=0.01)
    assert run_costs.BYTES_A_TOKEN == estimate.BYTES_A_TOKEN
    assert (TRAIN_SECONDS, TRAIN_SECONDS_A_MB) == (estimate.TRAIN_SECONDS, estimate.TRAIN_SECONDS_A_MB)


def test_shards_that_are_there_are_counted(capsys, tmp_path: Path) -> None:
    shards = make_shards(tmp_path / "shards", {"wiki": (6, 1)}, length=128)
    recipe = str(make_recipe(tmp_path / "recipe.yaml", shards, tmp_path / "run", preprocess={"segmenter": {"engine": "mecab"}}))
    plan = planned(capsys, "--gpus-per-node", "1", config=recipe)
    assert plan["disk_bytes"]["shards"]["value"] == sum(path.stat().st_size for path in shards.glob("*.tar"))
    assert plan["inputs"]["text_gb"]["kind"] == "computed" and "index.json" in plan["figures"]["disk_shards"]["source"]
    more = planned(capsys, "--gpus-per-node", "1", "--text-gb", "10", config=recipe)
    assert more["core_hours"]["segment"]["value"] == pytest.approx(10_000 / SEGMENT["mecab"].value / 3600)


def test_every_figure_has_a_formula_and_a_source_and_the_text_explains_them(capsys) -> None:
    figures = planned(capsys)["figures"]
    assert all(figure["formula"] and figure["source"] and figure["text"] for figure in figures.values())
    assert main(["--config", LARGE, "--explain"]) == 0
    printed = capsys.readouterr().out
    assert printed.count("formula: ") == printed.count("source: ") == len(figures)
    assert max(map(len, printed.splitlines())) <= 130
    assert main(["--config", LARGE]) == 0
    assert "formula: " not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--pue", "0.9"], "is below 1"),
        (["--pue", "nan"], "not a number above 0"),
        (["--gpu-watts", "-3"], "not a number above 0"),
        (["--gpu-memory-gb", "0"], "not a number above 0"),
        (["--text-gb", "inf"], "not a number above 0"),
        (["--preprocess", "{segmenter: {engine: chasen}}"], "plan knows the speed of jumanpp"),
        (["--preprocess", "{segmenter: [1]}"], "must be a section"),
        (["--preprocess", "{corpora: wikipedia}"], "must be a section"),
    ],
)
def test_bad_figures_are_one_sentence(arguments, complaint) -> None:
    with pytest.raises(ConfigError) as raised:
        main(["--config", LARGE, *arguments])
    assert complaint in str(raised.value) and "\n" not in str(raised.value)


def test_a_page_that_cannot_be_written_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"a directory\. Name the file"):
        main(["--config", LARGE, "--html", str(tmp_path)])
    (tmp_path / "file").write_text("no directory")
    with pytest.raises(OutputError, match="cannot be written"):
        main(["--config", LARGE, "--html", str(tmp_path / "file" / "plan.html")])
