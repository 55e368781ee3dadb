"""Makes the pictures of the pages from a simulated run: `.venv/bin/python docs/pictures/make_pictures.py`. Needs chromium.

The run is one of three weeks on 16 GPUs, 21,400 of 30,000 steps long, with what happens to such runs: time limits, a host that hangs and
is excluded, a skipped step. Its files are those that a training writes, and the pictures show what `jadeberta report`, `status` and
`race report` make of them. The figures are drawn from a seed and mean nothing.
"""

import base64
import contextlib
import html
import io
import json
import math
import random
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import yaml
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from jadeberta.config import PROJECT
from jadeberta.race.judgement import Budget, Result, judge
from jadeberta.race.race_file import Race
from jadeberta.race.race_report import page as race_page
from jadeberta.race.scores import RowScores
from jadeberta.report.cli import write_report
from jadeberta.status import cli as status
from tests.report.browser import CHROMIUM, Browser, browser

HERE = Path(__file__).resolve().parent
NOW = time.mktime((2026, 11, 24, 8, 30, 0, 0, 0, -1))
STEPS, STEP_S, BATCH = 30_000, 64.0, 23_040
SAVE_EVERY, EVALUATE_EVERY = 250, 500
HOSTS = ["gpu01", "gpu02", "gpu03", "gpu04"]
LARGEST = 150_000
"""Bytes of a picture."""
CORPORA = {"wikipedia": 0.66, "cc100": 0.61, "oscar": 0.58}
"""Held-out accuracy to which each corpus rises."""
ATTEMPTS = [
    (3900, "requeue", {}), (7450, "requeue", {}), (9130, "hang", {"rank": 9, "host": "gpu03", "phase": "step", "seconds": 600.0}),
    (11500, "requeue", {}), (15020, "requeue", {}), (18500, "requeue", {}), (21400, "", {}),
]  # fmt: skip
"""Last step of each attempt, and how it ended."""


class TrainedRun:
    """Writes the files of a run."""

    def __init__(self, run: Path) -> None:
        self.run, self.random, self.clock, self.attempt = run, random.Random(11), 0.0, -1
        self.metrics: list[dict] = []
        self.ledger: list[dict] = []
        self.jobs: list[dict] = []
        (run / "checkpoints").mkdir(parents=True)
        recipe = yaml.safe_load((PROJECT / "recipes/large.yaml").read_text(encoding="utf-8"))
        recipe["training"] |= {"max_steps": STEPS, "global_batch_size": BATCH, "warmup_steps": 1000}
        recipe["checkpoint"] |= {"every_steps": SAVE_EVERY, "keep_last": 3, "keep_every": 5000}
        (run / "recipe.yaml").write_text(yaml.safe_dump(recipe), encoding="utf-8")
        self.lr = float(recipe["training"]["lr"])
        step = 0
        for last, end, fields in ATTEMPTS:
            step = self._attempt(step, last, end, fields)
        shift = NOW - 20.0 - self.clock
        for rows in (self.metrics, self.ledger, self.jobs):
            for row in rows:
                row["time"] += shift
        for name in ("metrics", "ledger", "jobs"):
            lines = "".join(json.dumps(row) + "\n" for row in getattr(self, name))
            (run / f"{name}.jsonl").write_text(lines, encoding="utf-8")
        newest = step // SAVE_EVERY * SAVE_EVERY
        for kept in {*range(5000, newest, 5000), *range(newest - 2 * SAVE_EVERY, newest + 1, SAVE_EVERY)}:
            (run / f"checkpoints/step-{kept:08d}").mkdir()

    def say(self, event: str, **fields: object) -> None:
        row = {"time": self.clock, "event": event, "attempt": self.attempt, "host": HOSTS[0], "pid": 4711}
        self.ledger.append(row | fields)

    def job(self, event: str, **fields: object) -> None:
        row = {"time": self.clock, "event": event, "attempt": self.attempt, "job": 48213, "restarts": self.attempt}
        self.jobs.append(row | {"name": "jadeberta-large", "hosts": HOSTS[:2]} | fields)

    def _attempt(self, begin: int, last: int, end: str, fields: dict) -> int:
        """Trains from a step to another; returns the step from which the next attempt goes on."""
        self.clock, self.attempt = self.clock + self.random.uniform(200, 4000), self.attempt + 1
        hosts = HOSTS[:2] if self.attempt < 3 else [HOSTS[0], HOSTS[3]]
        self.job("begin", hosts=hosts)
        self.clock += 95
        self.say("start", world_size=16, launcher="srun", device="cuda", hosts=hosts)
        if begin:
            self.say("resume", step=begin, seconds=21.0)
        step = begin
        while step < last:
            step += 1
            self._step(step, slow=self.attempt == 2 and step > 8600)
            if step == 16_210 and self.attempt == 5:
                self.say("skip", step=step, reason="grad_norm 41.2 is 12 deviations above 0.62")
        if end == "hang":
            self.clock += 600
            self.say("hang", step=step, **fields)
            self.job("end", action="requeue", status=12, reason="gpu03 hung in a step", excluded=["gpu03"])
            return step // SAVE_EVERY * SAVE_EVERY
        if end:
            self._save(step)
            self.say("requeue", step=step, status=11, reason="SIGUSR1: the time limit is near")
            self.job("end", action="requeue", status=11, reason="the time limit is near", excluded=["gpu03"] * (self.attempt > 2))
        return step

    def _step(self, step: int, slow: bool) -> None:
        draw = self.random
        seconds = STEP_S * (1.14 if slow else 1.0) * draw.lognormvariate(0, 0.012)
        self.clock += seconds
        loss = 1.72 + 2.2 * math.exp(-step / 2600) + 6.4 * math.exp(-step / 350) + draw.gauss(0, 0.018)
        norm = (0.55 + 2.0 * math.exp(-step / 500)) * draw.lognormvariate(0, 0.09)
        self.metrics.append(
            {
                "step": step, "time": self.clock, "attempt": self.attempt, "step_s": round(seconds, 3), "loss": round(loss, 4),
                "accuracy": round(0.62 * (1 - math.exp(-step / 3000)), 4), "grad_norm": round(norm, 4),
                "lr": self.lr * min(step / 1000, (STEPS - step) / (STEPS - 1000)), "tokens": step * BATCH * 512,
                "skipped": step == 16_210 and self.attempt == 5, "tokens_per_second": round(BATCH * 512 / seconds),
                "mfu": 0.41 * STEP_S / seconds, "data_wait_s": round(draw.expovariate(20), 4), "batch_hash": f"{step:016x}",
            }
        )  # fmt: skip
        if step % SAVE_EVERY == 0:
            self._save(step)
        if step % EVALUATE_EVERY == 0:
            self.clock += 41
            rise = 1 - math.exp(-step / 4200)
            corpora = {name: {"accuracy": top * rise + draw.gauss(0, 0.002)} for name, top in CORPORA.items()}
            self.say("evaluation", step=step, seconds=41.0, corpora=corpora, whole=True)

    def _save(self, step: int) -> None:
        stall = self.random.uniform(0.7, 1.3)
        self.clock += stall
        self.say("save", step=step, stall_s=stall, write_s=self.random.uniform(18, 26))
        self.say("verified", step=step, faults=[], error=None)


def race_html() -> str:
    """The page of a race of three contestants, judged as any race."""
    draw = random.Random(5)
    race = Race("recipes/base.yaml", "published", {name: {} for name in ("published", "masks-30", "muon")}, {"base": {}})
    difficulty = [draw.gauss(0, 0.05) for _ in range(300)]

    def scores(accuracy: float) -> RowScores:
        correct = [max(0, min(76, round(76 * (accuracy + hard) + draw.gauss(0, 1.5)))) for hard in difficulty]
        return RowScores(correct, [76] * 300, [76 * (3.1 - 2 * c / 76) for c in correct], [140] * 300)

    def budget(share: float, gain: float) -> Budget:
        reached = 0.585 + 0.055 * math.log(share) + gain
        course = [(step, reached * (1 - math.exp(-step / 5000)) + draw.gauss(0, 0.001)) for step in range(1000, 30_001, 1000)]
        return Budget(share, 4.1e20 * share, int(3e10 * share), 9e5 * share, [scores(reached) for _ in range(2)], course)

    results = [Result("base", "published", {"training.lr": 2e-4}, [budget(1.0, 0.0)])]
    results += [
        Result("base", name, {"training.lr": lr}, [budget(share, gain) for share in (0.4, 0.6, 1.0)])
        for name, lr, gain in (("masks-30", 2e-4, 0.014), ("muon", 2e-3, 0.036))
    ]
    judge(results, race.target)
    return race_page(race, results)


def terminal_html(command: str, text: str) -> str:
    """A page that looks like a terminal with a command and what it printed."""
    style = "body{margin:0;background:#15181c;color:#d7dade;font:14px/1.35 'DejaVu Sans Mono',monospace;padding:16px;width:max-content}"
    return f"<!doctype html><meta charset=utf-8><style>{style}</style><pre>$ {html.escape(command)}\n{html.escape(text)}</pre>"


def take(found: Browser, page: Path, name: str, width: int, height: int, scheme: str = "light") -> None:
    """Takes a picture of the upper part of a page, with as many colours as leave it small."""
    found.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
    found.call("Emulation.setScrollbarsHidden", hidden=True)
    found.open(page, width, height)
    picture = Image.open(io.BytesIO(base64.b64decode(found.call("Page.captureScreenshot", format="png")["data"]))).convert("RGB")
    for colours in (256, 128, 64, 32):
        packed = io.BytesIO()
        picture.quantize(colours, dither=Image.Dither.NONE).save(packed, "PNG", optimize=True)
        if len(packed.getvalue()) < LARGEST:
            break
    (HERE / name).write_bytes(packed.getvalue())
    print(f"docs/pictures/{name}: {len(packed.getvalue()) / 1000:.0f} kB, {picture.width} x {picture.height}, {colours} colours")


@contextlib.contextmanager
def at_the_time_of_the_run() -> Iterator[None]:
    """All that is written says it is the moment of the run; the disk has room for ten weeks."""
    room = SimpleNamespace(total=8 << 40, used=5 << 40, free=3 << 40)
    with mock.patch("time.time", lambda: NOW), mock.patch("shutil.disk_usage", lambda path: room):
        yield


def main() -> None:
    if CHROMIUM is None:
        sys.exit("make_pictures.py: there is no chromium on this machine; install it.")
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        run = work / "runs/large"
        TrainedRun(run)
        with at_the_time_of_the_run(), contextlib.chdir(work):
            write_report([Path("runs/large")], work / "report.html")
            printed = io.StringIO()
            with contextlib.redirect_stdout(printed):
                status.main(["runs/large"])
        (work / "race.html").write_text(race_html(), encoding="utf-8")
        lines = [line for line in printed.getvalue().splitlines() if not line.startswith("checkpoints")]
        (work / "status.html").write_text(
            terminal_html("jadeberta status runs/large", "\n".join(lines).strip()), encoding="utf-8"
        )
        with browser(work) as found:
            take(found, work / "report.html", "report-light.png", 1180, 1440)
            take(found, work / "report.html", "report-dark.png", 1180, 1440, "dark")
            take(found, work / "race.html", "race.png", 1180, 705)
            take(found, work / "status.html", "status.png", 760, 19 * len(lines) + 48)


if __name__ == "__main__":
    main()
