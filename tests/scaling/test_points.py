"""Which runs a scaling test consists of, and what its report makes of them: plain values in, plain values out."""

import pytest

from jadeberta.config import load_recipe
from jadeberta.config.phases import phases_of
from jadeberta.errors import ConfigError
from jadeberta.plan.step_time import expected_maximum
from jadeberta.scaling.analysis import PointResult, report_rows
from jadeberta.scaling.measurements import Measured, measure, warnings_of
from jadeberta.scaling.points import Point, lay_out, merge, points_of, recipe_of
from jadeberta.scaling.report import table
from tests.helpers import ROOT

LARGE = ROOT / "recipes" / "large.yaml"
PARAMETERS = 1_000_000


def test_strong_keeps_the_batch_and_weak_the_batch_of_a_rank() -> None:
    strong, weak = lay_out(2304, [4, 1, 2], 8, ["strong", "weak"], [1], [18])
    assert [(p.nodes, p.global_batch_size, p.accumulation) for p in strong.points] == [(1, 2304, 16), (2, 2304, 8), (4, 2304, 4)]
    assert [(p.nodes, p.global_batch_size, p.accumulation) for p in weak.points] == [(1, 2304, 16), (2, 4608, 16), (4, 9216, 16)]


def test_two_series_share_the_run_in_which_they_meet() -> None:
    points = points_of(lay_out(2304, [1, 2], 8, ["strong", "weak"], [1, 2], [18]))
    assert len(points) == 6 == len({p.name for p in points})
    assert [p.ranks for p in points] == [8, 8, 16, 16, 16, 16]


def test_a_batch_that_does_not_divide_is_refused_with_the_sizes_that_fit() -> None:
    with pytest.raises(ConfigError, match=r"strong scaling on 5 nodes: .* World sizes that fit: 1, 2, 4, 8, 16, 32"):
        lay_out(2304, [1, 5], 8, ["strong"], [1], [18])
    assert lay_out(2304, [1, 5], 8, ["weak"], [1], [18])[0].points[1].global_batch_size == 5 * 2304
    with pytest.raises(ConfigError, match="weak scaling on 2 nodes"):
        lay_out(9, [2, 3], 1, ["weak"], [1], [1])
    assert [p.global_batch_size for p in lay_out(8, [2, 3], 1, ["weak"], [1], [1])[0].points] == [8, 12]


def test_a_test_that_grows_has_one_series_of_a_kind_and_of_one_batch() -> None:
    (had,), (more,) = lay_out(8, [1, 2], 1, ["weak"], [1], [1]), lay_out(8, [1, 4], 1, ["weak"], [1], [1])
    strong = lay_out(8, [1, 2], 1, ["strong"], [1], [1])
    grown = merge([had], [more, *strong])
    assert [(s.mode, [p.nodes for p in s.points]) for s in grown] == [("weak", [1, 2, 4]), ("strong", [1, 2])]
    assert merge(grown, [had]) == grown
    with pytest.raises(ConfigError, match="the weak series would have 4 and 8 sequences a rank"):
        merge([had], lay_out(8, [2, 4], 1, ["weak"], [1], [1]))
    with pytest.raises(ConfigError, match="the strong series would have 8 and 16 sequences a step"):
        merge(strong, lay_out(16, [1, 2], 1, ["strong"], [1], [1]))


def test_a_points_recipe_is_the_tests_with_its_sizes_and_nothing_that_disturbs() -> None:
    recipe = load_recipe(LARGE)
    made = recipe_of(recipe, Point(2, 4, 8, 9, 4608), "/out/points/x", 60)
    training = made.training
    assert (training.global_batch_size, training.micro_batch_size, training.max_steps, training.warmup_steps) == (4608, 9, 60, 60)
    assert made.deepspeed == "ds_configs/zero2.json" and made.run.dir == "/out/points/x"
    assert made.checkpoint.every_steps == 60 and made.evaluation.every_steps == 0 and made.logging.communication
    assert made.model == recipe.model and made.data == recipe.data and recipe.training.max_steps == 300_000
    assert recipe_of(recipe, Point(1, 4, 8, 9, 4608), "x", 60).deepspeed == recipe.deepspeed


def rows_of_run(seconds: list[float], life: int = 0) -> list[dict]:
    """Metrics of steps of so many seconds: a tenth waiting for data, half of it communicating, a thousand tokens each."""
    return [
        {"step": k + 1, "life": life, "time": 100.0 * k, "step_s": s, "data_wait_s": s / 10, "communication_s": s / 2,
         "tokens_per_second": 1000 / s, "mfu": None}
        for k, s in enumerate(seconds)
    ]  # fmt: skip


def test_a_point_is_measured_by_medians_after_its_warm_up() -> None:
    ledger = [
        {"event": "start", "life": 0, "time": 0, "device": "cpu"},
        {"event": "save", "life": 0, "time": 900, "step": 9, "stall_s": 3.0},
        {"event": "done", "life": 0, "time": 901, "peak_memory_bytes": 2**30},
    ]
    found = measure(ledger, rows_of_run([50, 40, 1, 2, 3, 2, 100, 2, 1]), 2)
    assert found is not None and found.steps == 7
    assert (found.step_s, found.data_s, found.communication_s) == (2.0, 0.2, 1.0)
    assert found.compute_s == pytest.approx(0.8) and found.tokens_per_second == 500 and found.mfu is None
    assert (found.stall_s, found.memory_bytes, found.on_gpu) == (3.0, 2**30, False)
    assert found.spread == pytest.approx(1.4826)


def test_only_the_last_life_of_a_point_is_measured() -> None:
    ledger = [{"event": "start", "life": k, "time": k} for k in (0, 1)]
    found = measure(ledger, rows_of_run([9, 9, 9, 9]) + rows_of_run([1, 1, 1], life=1), 1)
    assert found is not None and (found.steps, found.step_s) == (2, 1.0)
    assert measure(ledger, rows_of_run([9, 9, 9, 9]) + rows_of_run([1], life=1), 1) is None
    assert measure([], [], 1) is None


def measured(step_s: float, communication_s: float, tokens_per_second: float, **more: float) -> Measured:
    values = {"data_s": 0.0, "mfu": None, "spread": 0.0, "stall_s": 2.0, "memory_bytes": None, "on_gpu": False} | more
    return Measured(40, step_s, communication_s=communication_s, tokens_per_second=tokens_per_second, **values)  # type: ignore[arg-type]


def found(one: Measured | None, gemm: float = 1e9, **constants: float) -> PointResult:
    return PointResult(one, {"gemm_flops_per_second_per_rank": gemm} | constants)


def test_efficiency_is_that_of_a_rank_against_the_smallest_that_was_measured() -> None:
    (series,) = lay_out(8, [1, 2, 4], 1, ["strong"], [1], [1])
    one, two, four = series.points
    everything = {one: found(None), two: found(measured(1, 0.1, 1000)), four: found(measured(1, 0.5, 1500))}
    rows = report_rows(series, everything, PARAMETERS, "fp32", False, 100)
    assert [row.efficiency for row in rows] == [None, 1.0, 0.75] and rows[0].step_s is None
    assert rows[1].save_s == 0.02 and rows[2].compute_s == 0.5


def test_the_prediction_takes_compute_from_the_smallest_and_the_rest_from_each_points_preflight() -> None:
    (series,) = lay_out(8, [1, 4], 1, ["strong"], [1], [1])
    one, four = series.points
    everything = {
        one: found(measured(8.0, 0.4, 1000, data_s=0.8, spread=0.72), gemm=2e9),
        four: found(measured(10.0, 5.0, 1000), gemm=1e9, latency_s=0.0, bandwidth_bytes_per_s=1e6),
    }
    small, large = report_rows(series, everything, PARAMETERS, "fp32", False, 100)
    assert small.predicted_step_s == pytest.approx(8.0) and small.error == pytest.approx(0)
    # 7.2 s in 8 micro-batches, of which a rank of four has 2, on devices of half the speed; 4 MB there and back, and there again.
    compute, wire, stragglers = 2 * 0.9 * 2, 3 * 3 / 4 * 4.0, 0.1 * 2 * 0.9 * 2 * expected_maximum(4)
    assert large.predicted_compute_s == pytest.approx(compute)
    assert large.predicted_communication_s == pytest.approx(wire + stragglers)
    assert large.predicted_step_s == pytest.approx(compute + wire + stragglers + 0.8 / 4)
    assert large.error == pytest.approx(large.predicted_step_s / 10 - 1)


def test_without_constants_of_preflight_nothing_is_predicted() -> None:
    (series,) = lay_out(8, [1, 4], 1, ["weak"], [1], [1])
    one, four = series.points
    everything = {one: found(measured(1, 0, 1000)), four: PointResult(measured(1, 0.5, 3000), {})}
    rows = report_rows(series, everything, PARAMETERS, "fp32", False, 100)
    assert rows[0].predicted_step_s == 1 and rows[1].predicted_step_s is None and rows[1].error is None


def test_the_table_shows_a_missing_point_and_what_preflight_said() -> None:
    (series,) = lay_out(8, [1, 2], 1, ["strong"], [1], [1])
    one, two = series.points
    rows = report_rows(series, {one: found(measured(1, 0, 1000)), two: PointResult(None, {})}, PARAMETERS, "fp32", False, 100)
    report = {"recipe": "r.yaml", "parameters": PARAMETERS, "precision": "fp32", "steps": 60, "warm_up": 20}
    lines = table(report | {"warnings": {one.name: ["node3: slow"]}, "missing": [two.name]}, rows).splitlines()
    assert lines[0] == "r.yaml: 1.0M parameters, fp32, medians of steps 21 to 60"
    assert lines[4].split()[4:7] == ["1,000", "100.0%", "1.000"] and set(lines[5].split()[4:]) == {"-"}
    assert lines[7:9] == [f"preflight of {one.name}", "  node3: slow"]
    assert lines[-1] == f"not measured: {two.name}"


def test_what_preflight_had_against_an_allocation_is_passed_on() -> None:
    preflight = {"fit": False, "unfit": {"node3": ["slow", "full"]}, "common": ["clocks"], "constants": {}}
    assert warnings_of(preflight) == ["node3: slow", "node3: full", "clocks"] and warnings_of({"constants": {}}) == []
    assert "did not finish" in warnings_of({})[0]


def test_a_point_of_a_recipe_with_phases_is_of_the_first_one() -> None:
    phases = "[{steps: 200000, sequence_length: 128, micro_batch_size: 36}, {steps: 100000, global_batch_size: 1152}]"
    recipe = recipe_of(load_recipe(LARGE, ("--phases", phases)), Point(1, 1, 8, 36, 2304), "run", 20)
    (phase,) = phases_of(recipe)
    assert (phase.steps, phase.sequence_length, phase.micro_batch_size, recipe.training.max_steps) == (20, 128, 36, 20)
