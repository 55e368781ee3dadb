"""bench/gpu.sh on a machine that only says it has a GPU: every part runs, a failure leaves the others alone, and the time is bounded."""

import os
import re
import subprocess
from pathlib import Path

from tests.helpers import ROOT

STANDS_FOR_PYTHON = """#!/usr/bin/env bash
if [ "$1" = -c ]; then
    case "$2" in *get_device_name*) echo "$GPU" ;; *triton*) [ -z "$NO_TRITON" ] ;; esac
    exit
fi
echo "ran $*"
case "$*" in *"$FAILS"*) exit 3 ;; esac
"""


def run(tmp_path: Path, **settings: str) -> subprocess.CompletedProcess[str]:
    python, programs = tmp_path / "python", tmp_path / "bin"
    python.write_text(STANDS_FOR_PYTHON)
    python.chmod(0o755)
    programs.mkdir()
    sanitizer = programs / "compute-sanitizer"
    sanitizer.write_text('#!/usr/bin/env bash\necho "sanitized with $2"\n')
    sanitizer.chmod(0o755)
    environment = {"GPU": "a-gpu", "NO_TRITON": "", "FAILS": "nothing does", "PYTHON": str(python)} | settings
    path = f"{programs}:{os.environ['PATH']}"
    script = ["bash", "bench/gpu.sh", str(tmp_path / "out")]
    return subprocess.run(script, cwd=ROOT, env=os.environ | environment | {"PATH": path}, capture_output=True, text=True)


def test_every_part_runs_and_leaves_what_it_printed(tmp_path) -> None:
    done = run(tmp_path)
    assert done.returncode == 0, done.stderr
    parts = {re.sub(r"-a-gpu-.*", "", path.name): path.read_text() for path in (tmp_path / "out").glob("*.txt")}
    assert set(parts) == {
        "tiles",
        "kernels",
        "attention",
        "step",
        "parity",
        "correct",
        "sanitizer-memcheck",
        "sanitizer-racecheck",
    }
    assert (
        parts.pop("sanitizer-memcheck") == "sanitized with memcheck\n"
        and parts.pop("sanitizer-racecheck") == "sanitized with racecheck\n"
    )
    programs = {name: text.split()[1] for name, text in parts.items()}
    assert programs.pop("tiles") == "-m" and all((ROOT / program).is_file() for program in programs.values())
    assert list((tmp_path / "out").glob("tiles-a-gpu-*.json"))


def test_a_part_that_fails_leaves_the_others_alone_and_gives_the_status(tmp_path) -> None:
    done = run(tmp_path, FAILS="attention.py")
    assert done.returncode == 3 and "attention ended with status 3" in done.stderr
    assert done.stdout.count("\nran ") == 6 and "sanitized with racecheck" in done.stdout


def test_without_a_gpu_or_triton_one_sentence_says_so(tmp_path) -> None:
    (tmp_path / "a").mkdir(), (tmp_path / "b").mkdir()
    for done, wanted in ((run(tmp_path / "a", GPU=""), "no GPU"), (run(tmp_path / "b", NO_TRITON="1"), "Triton is missing")):
        assert done.returncode == 2 and wanted in done.stderr and done.stderr.count("\n") == 1 and done.stdout == ""


def test_all_parts_together_take_under_eight_minutes() -> None:
    limits = re.findall(r"^( *)part (\d+) ", (ROOT / "bench/gpu.sh").read_text(encoding="utf-8"), re.MULTILINE)
    assert len(limits) == 7
    assert sum(int(seconds) * (2 if indented else 1) for indented, seconds in limits) < 480  # the last part runs once a tool
