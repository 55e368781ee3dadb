"""bench/gpu.sh without a GPU: parts share the time, fail alone, end with all that they started, and leave what they had."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from bench.gpu_run import driver, one_part
from bench.gpu_run.driver import GpuRun, result_path
from bench.gpu_run.gpu_parts import BUDGET_S, GpuPart, granted, parts_of
from bench.gpu_run.process_tree import end, has_ended
from bench.gpu_run.stand_in import Machine
from bench.gpu_run.whole_step import first_step
from tests.helpers import ROOT

WRITES_AND_HANGS = """
import subprocess, sys, time
print("begun", flush=True)
open(sys.argv[sys.argv.index("--output") + 1], "w").write('{"rows": [{"way": "a", "ms": 1.5}]}')
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
print("child", child.pid, flush=True)
time.sleep(600)
"""


def said(name: str, code: str, seconds: float = 20, **settings) -> GpuPart:
    return GpuPart(name, ("-c", code), settings.pop("share_s", 1), seconds, **settings)


def run(tmp_path: Path, parts: list[GpuPart], seconds: float = 60) -> tuple[int, dict]:
    (tmp_path / "work").mkdir()
    status = GpuRun(parts, tmp_path / "work", seconds, True, tmp_path / "gpu-x.json").everything()
    return status, json.loads((tmp_path / "gpu-x.json").read_text())["parts"]


def test_a_part_that_fails_or_hangs_leaves_the_others_alone_and_what_it_had_is_kept(tmp_path) -> None:
    hangs = GpuPart("hangs", ("-c", WRITES_AND_HANGS, "bench.gpu_run.one_part"), 1, 4)
    status, parts = run(tmp_path, [said("fails", "raise SystemExit(3)"), hangs, said("works", "print('well')")])
    assert status == 3
    assert [(name, part["state"]) for name, part in parts.items()] == [
        ("fails", "failed"),
        ("hangs", "stopped"),
        ("works", "done"),
    ]
    assert parts["hangs"]["rows"] == [{"way": "a", "ms": 1.5}] and parts["hangs"]["status"] == 124
    log = (tmp_path / "gpu-x.txt").read_text()
    assert "== works: done\nwell" in log and "begun" in log
    child = int(log.partition("child ")[2].split()[0])
    deadline = time.monotonic() + 10
    while Path(f"/proc/{child}").exists() and "Z" not in Path(f"/proc/{child}/stat").read_text().rpartition(")")[2][:3]:
        assert time.monotonic() < deadline, "what a part started in a session of its own outlives it"
        time.sleep(0.05)


def test_parts_beside_begin_first_and_a_part_that_needs_the_device_alone_waits_for_them(tmp_path) -> None:
    beside = said("beside", "import time; time.sleep(1.5)", beside=True)
    status, parts = run(tmp_path, [said("first", ""), said("alone", "", alone=True), said("next", ""), beside])
    assert status == 0
    began = {name: part["began_s"] for name, part in parts.items()}
    assert sorted(began, key=began.__getitem__) == ["beside", "first", "next", "alone"]
    assert began["alone"] >= parts["beside"]["took_s"]


def test_a_part_that_cannot_begin_says_why(tmp_path) -> None:
    absent = GpuPart("sanitizer", ("x",), 0, 20, program="no-such-program-anywhere")
    status, parts = run(tmp_path, [absent, said("late", "", share_s=9)], seconds=5)
    assert status == 0
    assert [part["why"] for part in parts.values()] == ["no-such-program-anywhere is not in PATH", "no time was left"]


def test_what_one_part_leaves_over_goes_to_the_next_and_no_share_is_taken_from_later_ones() -> None:
    parts = [part for part in parts_of(rehearse=False) if not part.beside]
    assert sum(part.share_s for part in parts) <= BUDGET_S <= 475
    for quickest in (True, False):
        left = BUDGET_S
        for number, part in enumerate(parts):
            seconds = granted(part, parts[number + 1 :], left)
            assert part.share_s <= seconds <= part.most_s
            left -= 2 if quickest else seconds
        assert left >= 0
    assert granted(parts[-1], [], 0.5) == 0


def test_most_valuable_first_and_a_rehearsal_has_every_part_but_the_sanitizer() -> None:
    names = [part.name for part in parts_of(rehearse=False)]
    assert [n for n in names if not n.startswith(("step", "engine"))] == [
        "facts", "kernels", "attention", "same bits", "memory", "save", "attention quiet", "tiles", "parity", "sdpa", "memcheck",
        "racecheck",
    ]  # fmt: skip
    assert [part.name for part in parts_of(rehearse=True)] == names[:-2]
    assert {n for n in names if n.startswith("step")} == {
        f"step {way}" for way in ("eager", "eager compiled", "sdpa compiled", "fused compiled")
    }


def test_a_second_run_of_a_day_keeps_the_results_of_the_first(tmp_path) -> None:
    first = result_path(tmp_path, "a-gpu")
    first.touch()
    assert result_path(tmp_path, "a-gpu").name == f"{first.stem}-2.json"


def script(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = ["bash", "bench/gpu.sh", *arguments]
    return subprocess.run(command, cwd=ROOT, env=os.environ | environment, capture_output=True, text=True, timeout=100)


@pytest.mark.parametrize(
    ("arguments", "environment", "wanted"),
    [
        ((), {"PYTHON": "no-such-python"}, "there is no program no-such-python"),
        (("--only", "nothing"), {}, "no part is called 'nothing'"),
        (("--only", "facts", "kernels"), {}, "kernels is a part and no folder"),
        (("README.md",), {}, "README.md: nothing can be written there"),
        ((), {"CUDA_VISIBLE_DEVICES": ""}, "CUDA sees no GPU here"),
    ],
)
def test_without_python_or_gpu_one_sentence_says_so(arguments, environment, wanted) -> None:
    done = script(*arguments, **{"PYTHON": sys.executable, "WHEELS": "none"} | environment)
    assert done.returncode == 2 and wanted in done.stderr and done.stderr.count("\n") == 1 and done.stdout == ""


def test_a_folder_may_follow_a_part_and_starts_where_the_command_was_typed(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("GPU_RUN_FROM", str(tmp_path))
    found = driver._options(["--only", "facts", "--only", "kernels", "out"])
    assert found.only == ["facts", "kernels"] and found.folder == tmp_path / "out" and found.folder.is_dir()


@pytest.mark.parametrize("seconds", ["0", "-5", "nan", "inf"])
def test_no_seconds_are_refused(seconds, capsys) -> None:
    with pytest.raises(SystemExit) as refused:
        driver._options(["--seconds", seconds])
    assert refused.value.code == 2 and f"{seconds} is no number of seconds above 0" in capsys.readouterr().err


def test_a_step_without_memory_is_taken_again_when_the_error_is_gone() -> None:
    handled: list[object] = []

    def step() -> None:
        handled.append(sys.exc_info()[1])
        if len(handled) == 1:
            raise torch.OutOfMemoryError("no memory")

    model = torch.nn.Linear(1, 1)
    model.weight.grad = torch.ones(1, 1)
    first_step(Machine(rehearse=True), model, step)
    assert handled == [None, None] and model.weight.grad is None


def test_a_process_that_was_reaped_is_left_alone(monkeypatch) -> None:
    process = subprocess.Popen([sys.executable, "-c", ""], start_new_session=True)
    deadline = time.monotonic() + 20
    while not has_ended(process):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert process.returncode is None  # not reaped: the id is still its own
    end(process)
    assert process.returncode == 0
    monkeypatch.setattr(os, "killpg", lambda *_: pytest.fail("another process may have the id by now"))
    end(process)


def test_wheels_go_into_a_folder_of_their_own_that_is_gone_in_the_end(tmp_path) -> None:
    python, wheels = tmp_path / "python", tmp_path / "wheels"
    python.write_text('#!/usr/bin/env bash\necho "$* | $PYTHONPATH | $GPU_RUN_PACKAGES"\n[ "$1" = -m ] || exit 7\n')
    python.chmod(0o755)
    wheels.mkdir()
    (wheels / "a-1-py3-none-any.whl").touch()
    done = script("--rehearse", PYTHON=str(python), WHEELS=str(wheels), PYTHONPATH="before")
    pip, begun = done.stdout.splitlines()
    assert "pip install" in pip and "--no-index --no-deps" in pip and str(wheels / "a-1-py3-none-any.whl") in pip
    packages = Path(pip.partition("--target ")[2].split()[0])
    # Behind the machine's own packages, which PYTHONPATH would go before.
    assert begun == f"bench/gpu_run/driver.py --rehearse | {packages.parent}:before | {packages}"
    assert done.returncode == 7 and not packages.parent.exists()


def measured(module: str, tmp_path: Path, *more: str) -> dict:
    output = tmp_path / f"{module}.json"
    assert one_part.main([module, "--rehearse", "--output", str(output), *more]) == 0
    return json.loads(output.read_text())


def test_the_facts_name_versions_and_both_ceilings(tmp_path) -> None:
    found = measured("machine_facts", tmp_path)
    assert found["facts"]["packages"]["torch"].startswith("2.") and found["matrix_tflops"] > 0 and found["copy_tb_per_s"] > 0


def test_tiles_are_in_the_results_and_the_table_of_the_package_stays(tmp_path) -> None:
    table = ROOT / "jadeberta/model/attention/triton/tiles.json"
    before = table.read_bytes()
    found = measured("tile_times", tmp_path)
    assert {row["kernel"] for row in found["tiles"]} == {"build", "forward", "scores_backward", "grad_side", "grad_table"}
    assert table.read_bytes() == before and found["scratch"]["scratch_mib"] > 0


def test_a_part_whose_package_is_absent_names_it(tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.setitem(sys.modules, "bench.gpu_run.tile_times", None)
    monkeypatch.setattr(
        one_part.importlib, "import_module", lambda name: (_ for _ in ()).throw(ModuleNotFoundError(name="orjson"))
    )
    assert one_part.main(["tile_times"]) == 3
    assert "tile_times needs orjson, which is missing here" in capsys.readouterr().out
