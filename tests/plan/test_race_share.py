"""A race of small models beside a plan: its share of the FLOPs, said with its sizes and as a prediction."""

import json
from pathlib import Path
from typing import Any

import pytest

from jadeberta.errors import ConfigError, InputError
from jadeberta.plan.cli import main
from tests.helpers import ROOT

LARGE = str(ROOT / "recipes/large.yaml")
SPEED = ("--tokens-per-second-per-gpu", "14200")


def report(folder: Path, shares: dict[str, Any], **changes: Any) -> Path:
    results = [
        {"size": size, "contestant": "sum", "share": share, "interval": [0.4, None], "is_bound": share == 0.4}
        for size, share in shares.items()
    ]
    path = folder / "report.json"
    path.write_text(json.dumps({"base": LARGE, "results": results} | changes), encoding="utf-8")
    return path


def planned(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    assert main(["--config", LARGE, "--json", *SPEED, *arguments]) == 0
    return json.loads(capsys.readouterr().out)


def test_the_days_to_the_targets_accuracy_are_its_days_times_the_share_at_the_largest_size(tmp_path, capsys) -> None:
    path = report(tmp_path, {"2x128": 0.4, "4x256": 0.5})
    plan = planned(capsys, "--race", str(path), "--contestant", "sum", "--training.max_steps", "150000")
    of_target, days = plan["figures"]["flops_of_target"], plan["figures"]["race_days"]
    assert of_target["value"] == pytest.approx(0.5, rel=1e-9)
    assert days["value"] == pytest.approx(plan["figures"]["days"]["value"]) and days["low"] < days["value"] < days["high"]
    assert "at most 40% at 2x128; 50% at 4x256" in days["source"] and "predicted; not measured at this size" in days["text"]


def test_the_table_says_it_too_and_a_plan_without_a_race_does_not(tmp_path, capsys) -> None:
    path = report(tmp_path, {"2x128": 0.4})
    main(["--config", LARGE, *SPEED, "--race", str(path), "--contestant", "sum"])
    assert "days to the accuracy of large.yaml" in capsys.readouterr().out
    assert "race_days" not in planned(capsys)["figures"]


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("{", "this is no report of a race"),
        ('{"base": "x"}', "this is no report of a race"),
        ("[]", "this is no report of a race"),
        (
            '{"base": "x", "results": [{"contestant": "sum", "size": "a", "share": -1, "interval": [0, 1]}]}',
            "no report of a race",
        ),
        ('{"base": "x", "results": [{"contestant": "sum", "size": "a", "share": NaN}]}', "this is no report of a race"),
    ],
)
def test_a_file_that_is_no_report_is_refused(tmp_path, content, sentence) -> None:
    path = tmp_path / "report.json"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(InputError, match=sentence):
        main(["--config", LARGE, "--race", str(path), "--contestant", "sum"])


def test_a_contestant_that_is_not_there_or_never_arrived_is_refused(tmp_path) -> None:
    path = report(tmp_path, {"2x128": None})
    with pytest.raises(ConfigError, match=r"--contestant other: .* has sum"):
        main(["--config", LARGE, "--race", str(path), "--contestant", "other"])
    with pytest.raises(ConfigError, match="at no size"):
        main(["--config", LARGE, "--race", str(path), "--contestant", "sum"])
    with pytest.raises(ConfigError, match="go together"):
        main(["--config", LARGE, "--race", str(path)])
    with pytest.raises(ConfigError, match="no such recipe"):
        main(["--config", LARGE, "--race", str(report(tmp_path, {"a": 0.5}, base="away.yaml")), "--contestant", "sum"])
    with pytest.raises(InputError, match="No such file"):
        main(["--config", LARGE, "--race", str(tmp_path / "away.json"), "--contestant", "sum"])
