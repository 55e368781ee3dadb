"""The report of a scaling test, from files that its points have left: table, JSON, CSV and picture."""

import json
from pathlib import Path

import pytest

from jadeberta.config import load_recipe
from jadeberta.errors import InputError
from jadeberta.scaling.cli import main
from jadeberta.scaling.points import Point, lay_out, points_of, recipe_of
from jadeberta.scaling.points_dir import PREFLIGHT, PointsDir, Settings
from tests.helpers import ROOT
from tests.scaling.test_points import rows_of_run


def finish(points_dir: PointsDir, point: Point, step_s: float) -> None:
    """What a point leaves that has trained ten steps and then saved."""
    directory = points_dir.point(point)
    ledger = [
        {"event": "start", "attempt": 0, "time": 0, "device": "cpu"},
        {"event": "save", "attempt": 0, "time": 1000, "step": 10, "stall_s": 3.0},
        {"event": "done", "attempt": 0, "time": 1001, "peak_memory_bytes": 2**30},
    ]
    (directory / "ledger.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ledger))
    (directory / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows_of_run([9.0] * 2 + [step_s] * 8)))
    preflight = {"constants": {"gemm_flops_per_second_per_rank": 1e9}, "unfit": {"node3": ["slow"]}}
    (directory / PREFLIGHT).write_text(json.dumps(preflight))
    (directory / "DONE").touch()


def test_the_report_has_what_was_measured_in_four_forms_and_names_what_is_missing(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    recipe = load_recipe(ROOT / "recipes" / "demo.yaml")
    series = lay_out(8, [1, 2, 4], 1, ["strong", "weak"], [1], [2])
    points_dir = PointsDir(tmp_path)
    points_dir.write_settings(Settings("demo.yaml", 10, 2, 100, series))
    for point in points_of(series):
        points_dir.prepare(point, recipe_of(recipe, point, str(points_dir.point(point)), 10))
    with pytest.raises(InputError, match="no point is finished yet"):
        main(["report", str(tmp_path)])
    done = [point for point in points_of(series) if point.nodes < 4]
    for point in done:
        finish(points_dir, point, 1.0 if point.nodes == 1 else 0.6)
    assert main(["report", str(tmp_path)]) == 1  # points are missing
    printed = capsys.readouterr().out
    assert "strong: the same global batch" in printed and "weak: the same batch per rank" in printed
    assert "node3: slow" in printed and "not measured: " in printed
    report = json.loads((tmp_path / "report.json").read_text())
    strong = {row["nodes"]: row for row in report["rows"] if row["mode"] == "strong"}
    assert (strong[1]["step_s"], strong[2]["step_s"], strong[4]["step_s"]) == (1.0, 0.6, None)
    assert strong[1]["save_s"] == 0.03 and strong[1]["memory_bytes"] == 2**30
    assert len(report["missing"]) == len(points_of(series)) - len(done)
    assert len((tmp_path / "report.csv").read_text().splitlines()) == 1 + len(report["rows"])
    assert (tmp_path / "report.png").read_bytes().startswith(b"\x89PNG")
    assert main(["report", str(tmp_path), "--json"]) == 1
    assert json.loads(capsys.readouterr().out) == report
