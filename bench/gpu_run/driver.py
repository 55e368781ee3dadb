"""Runs every part that wants a GPU within one time: `bench/gpu.sh [--rehearse] [--seconds 465] [--only PART]... [FOLDER]`.

Two files come out of a run, gpu-NAME-DATE.json with all figures and gpu-NAME-DATE.txt with what the parts printed; both are written anew
every second, so that a machine that is taken away leaves what was measured. Every part is a process with a limit. One that fails, hangs
or is killed leaves the others alone, and the first failure is the exit status. `--rehearse` takes the same way on the CPU with tiny sizes.
"""

import argparse
import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NoReturn

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from bench.gpu_run.gpu_parts import BUDGET_S, GpuPart, granted, parts_of
from bench.gpu_run.process_tree import end, end_at_signals, has_ended, seconds_since
from bench.results_file import write_results
from jadeberta.utils.paths import path_option

ROOT = Path(__file__).resolve().parents[2]
LOOK_S = 0.1
LINES = 120
"""Of a part in the log; the middle of a longer output is left out."""


@dataclass
class Running:
    """A part that has begun."""

    part: GpuPart
    process: "subprocess.Popen[bytes]"
    began_s: float
    limit_s: float
    folder: Path
    state: str = "running"
    status: int | None = None
    took_s: float = 0.0

    def document(self) -> dict[str, Any]:
        """What the result file says of it."""
        found: dict[str, Any] = {"state": self.state, "began_s": self.began_s, "took_s": self.took_s, "limit_s": self.limit_s}
        if self.status is not None:
            found["status"] = self.status
        with contextlib.suppress(OSError, ValueError):  # it may have no rows yet
            found |= json.loads((self.folder / "rows.json").read_text(encoding="utf-8"))
        return found

    def lines(self) -> list[str]:
        """What it printed, the middle left out where it is long."""
        text = (self.folder / "log").read_text(encoding="utf-8", errors="replace")
        every = [line.rpartition("\r")[2][:300] for line in text.splitlines()]
        return every if len(every) <= LINES else [*every[: LINES // 2], "  ...", *every[-LINES // 2 :]]


@dataclass
class GpuRun:
    """One run of all parts."""

    parts: Sequence[GpuPart]
    work: Path
    budget_s: float
    rehearse: bool
    result: Path
    """The JSON file; the log goes beside it."""
    began: float = field(default_factory=time.monotonic)
    done: dict[str, Running] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)
    processes: list["subprocess.Popen[bytes]"] = field(default_factory=list)
    written_s: float = -1e9

    def everything(self) -> int:
        """Runs the parts; returns the exit status."""
        waiting = list(self.parts)
        for part in [part for part in waiting if part.beside]:
            waiting.remove(part)
            self._begin(part, [])
        while waiting or self._running():
            self._look()
            if waiting and not any(not one.part.beside for one in self._running()):
                # A part that needs the device alone lets the next one that does not go first.
                ready = [part for part in waiting if not (part.alone and self._running())]
                if ready:
                    waiting.remove(ready[0])
                    self._begin(ready[0], waiting)
            time.sleep(LOOK_S)
        self.write()
        return next((one.status or 1 for one in self.done.values() if one.state in ("failed", "stopped")), 0)

    def _running(self) -> list[Running]:
        return [one for one in self.done.values() if one.state == "running"]

    def _begin(self, part: GpuPart, later: Sequence[GpuPart]) -> None:
        program = shutil.which(part.program) if part.program else sys.executable
        limit = granted(part, later, self.budget_s - seconds_since(self.began))
        if program is None or not limit:
            self.skipped[part.name] = f"{part.program} is not in PATH" if program is None else "no time was left"
            print(f"== {part.name}: skipped, {self.skipped[part.name]}", flush=True)
            return
        folder = self.work / part.name.replace(" ", "-")
        folder.mkdir()
        command = [program, *(sys.executable if part.program and word == "python" else word for word in part.command)]
        if "bench.gpu_run.one_part" in command:
            command += ["--output", str(folder / "rows.json"), "--lock", str(self.work / "lock"), "--seconds", f"{limit:.0f}"]
            command += ["--rehearse"] if self.rehearse else []
        environment = {
            "PYTHONUNBUFFERED": "1", "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
            "TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1",
            # One cache for all: what one process compiled, the others read.
            "TORCHINDUCTOR_CACHE_DIR": str(self.work / "inductor"), "TRITON_CACHE_DIR": str(self.work / "triton"),
        }  # fmt: skip
        # Six processes with a thread for each core would wait for each other on a laptop.
        alone = {"OMP_NUM_THREADS": "1"} if self.rehearse else {}
        began_s = seconds_since(self.began)
        with open(folder / "log", "wb") as log:
            process = subprocess.Popen(
                command, cwd=ROOT, env=os.environ | environment | alone | part.environment, stdin=subprocess.DEVNULL, stdout=log,
                stderr=subprocess.STDOUT, start_new_session=True,
            )  # fmt: skip
        self.processes.append(process)
        self.done[part.name] = Running(part, process, began_s, limit, folder)
        print(f"== {part.name}: begins at {began_s:.0f} s, at most {limit:.0f} s", flush=True)

    def _look(self) -> None:
        """Notes the parts that have ended, ends those whose time is over, and writes the results once a second."""
        for one in self._running():
            one.took_s = seconds_since(self.began) - one.began_s
            still_runs = not has_ended(one.process)
            if still_runs and one.took_s < one.limit_s:
                continue
            end(one.process)
            one.status = 124 if still_runs else one.process.poll()
            one.state = "stopped" if still_runs else "done" if one.status == 0 else "failed"
            told = {"stopped": f"stopped after its {one.limit_s:.0f} s", "failed": f"ended with status {one.status}"}
            print(f"== {one.part.name}: {told.get(one.state, f'done in {one.took_s:.0f} s')}", flush=True)
            print("\n".join(one.lines()), flush=True)
        if time.monotonic() - self.written_s >= 1:
            self.write()

    def write(self) -> None:
        """Both files, whole at any time: a new one takes the place of the old."""
        facts = self.done["facts"].document().get("facts", {}) if "facts" in self.done else {}
        document = {
            "machine": facts.get("machine", "unknown"), "rehearsal": self.rehearse,
            "time": datetime.now(UTC).isoformat(timespec="seconds"), "took_s": seconds_since(self.began),
            "parts": {
                part.name: self.done[part.name].document() if part.name in self.done
                else {"state": "skipped", "why": self.skipped.get(part.name, "not begun")}
                for part in self.parts
            },
        }  # fmt: skip
        beside = self.result.with_suffix(".json.new")
        write_results(beside, document)
        beside.replace(self.result)
        log = [line for one in self.done.values() for line in (f"== {one.part.name}: {one.state}", *one.lines())]
        beside.write_text("\n".join(log) + "\n", encoding="utf-8")
        beside.replace(self.result.with_suffix(".txt"))
        self.written_s = time.monotonic()


def result_path(folder: Path, name: str) -> Path:
    """A file of this machine and day that does not exist: a second run keeps the first."""
    stem, number = f"gpu-{name}-{datetime.now(UTC).date().isoformat()}", 1
    while (path := folder / (f"{stem}.json" if number == 1 else f"{stem}-{number}.json")).exists():
        number += 1
    return path


ASKED = """
import ctypes
cuda, device, name = ctypes.CDLL("libcuda.so.1"), ctypes.c_int(), ctypes.create_string_buffer(200)
assert cuda.cuInit(0) == 0 and cuda.cuDeviceGet(ctypes.byref(device), 0) == 0 and cuda.cuDeviceGetName(name, 200, device) == 0
print(name.value.decode())
"""
"""Asks CUDA's own library: importing torch for a name would cost ten seconds of a cold run."""


def name_of_device() -> str:
    """Of the GPU, asked in a process of its own, which a broken driver may hang or end; empty where there is none."""
    try:
        found = subprocess.run([sys.executable, "-c", ASKED], capture_output=True, text=True, timeout=60)
    except subprocess.TimeoutExpired:
        return ""
    return found.stdout.strip()


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The options, checked; the folder is made, and starts where the user typed the command."""
    parser = argparse.ArgumentParser(
        prog="bench/gpu.sh", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=path_option, nargs="?", default=ROOT / "bench" / "results", help="for the two files")
    parser.add_argument("--rehearse", action="store_true", help="the same on the CPU with tiny sizes")
    parser.add_argument("--seconds", type=_seconds, help=f"of the whole run ({BUDGET_S:.0f}; a rehearsal has no limit)")
    parser.add_argument(
        "--only", action="append", default=[], metavar="PART", help="this part, may come again; facts is always there"
    )
    options = parser.parse_args(arguments)
    names = [part.name for part in parts_of(options.rehearse)]
    if unknown := [name for name in options.only if name not in names]:
        _refuse(f"no part is called {unknown[0]!r}; there are {', '.join(names)}")
    if str(options.folder) in names:
        _refuse(f"{options.folder} is a part and no folder; give each part its own --only")
    options.folder = Path(os.environ.get("GPU_RUN_FROM", "")) / options.folder
    try:
        options.folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=options.folder):
            pass
    except OSError as e:
        _refuse(f"{options.folder}: nothing can be written there ({e.strerror}); name another folder")
    return options


def _refuse(sentence: str) -> NoReturn:
    print(f"bench/gpu.sh: {sentence}", file=sys.stderr)
    raise SystemExit(2)


def _seconds(text: str) -> float:
    value = float(text)
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} is no number of seconds above 0")
    return value


def main(arguments: Sequence[str] | None = None) -> int:
    # The installation of the wheels, and the question to CUDA below, count too.
    began = time.monotonic() - float(os.environ.get("GPU_RUN_BEFORE_S", "0"))
    options = _options(arguments)
    parts = parts_of(options.rehearse)
    if options.only:
        parts = [part for part in parts if part.name in ("facts", *options.only)]
    name = "rehearsal" if options.rehearse else name_of_device()
    if not name:
        print("bench/gpu.sh: CUDA sees no GPU here; --rehearse takes the same way on the CPU", file=sys.stderr)
        return 2
    work = Path(tempfile.mkdtemp(prefix="gpu-run-"))
    run = GpuRun(
        parts,
        work,
        options.seconds or (1e6 if options.rehearse else BUDGET_S),
        options.rehearse,
        result_path(options.folder, name.replace(" ", "-").lower()),
        began,
    )
    end_at_signals(run.processes)
    try:
        return run.everything()
    finally:
        for process in run.processes:
            end(process)
        run.write()
        shutil.rmtree(work, ignore_errors=True)
        print(
            f"bench/gpu.sh: {run.result} and {run.result.with_suffix('.txt').name}, {seconds_since(run.began):.0f} s", flush=True
        )


if __name__ == "__main__":
    sys.exit(main())
