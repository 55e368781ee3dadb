"""The state of a run as a text file for node_exporter's textfile collector, https://prometheus.io/docs/instrumenting/exposition_formats/.

All figures are gauges: steps, tokens and even counts of a run may fall, because a run can go back.
"""

import math
import re
from collections.abc import Iterator
from pathlib import Path

from jadeberta.checkpoint.manifest import list_checkpoints, step_of
from jadeberta.publish.clean_run import CleanRun
from jadeberta.status.eta import training_left_s
from jadeberta.status.goodput import PARTS
from jadeberta.status.run_verdict import judge
from jadeberta.training.ledger import held_out
from jadeberta.utils.files import write_atomically
from jadeberta.utils.json_lines import finite, time_of

HELP = {
    "run_info": "A run of jadeberta, its directory and what it does now; always 1",
    "needs_attention": "1 where the run needs a person, as the first line of jadeberta status says; 0 where it does not",
    "up": "1 where the run trains now, 0 where it does not",
    "step": "Newest step that stayed",
    "planned_steps": "Steps of the whole run",
    "trained_tokens": "Tokens that the run has trained on, without undone steps",
    "loss": "Mean cross-entropy of a masked token, nats, over the last 100 steps",
    "learning_rate": "Learning rate of the newest step",
    "gradient_norm": "Norm of the gradient of the newest step before clipping",
    "held_out_accuracy_ratio": "Share of the masked tokens of held-out rows that were predicted, newest evaluation",
    "held_out_loss": "Mean cross-entropy of a masked token of held-out rows, nats, newest evaluation",
    "step_duration_seconds": "Mean duration of the last 100 steps",
    "tokens_per_second": "Mean over the time in steps that stayed",
    "model_flops_utilization_ratio": "Share of the peak of the devices, mean over the time in steps that stayed",
    "goodput_ratio": "Share of the time since the first start in steps that stayed and changed weights",
    "goodput_day_ratio": "Share of the last 24 hours in steps that stayed",
    "time_seconds": "Time since the first start by what it was spent on; the parts sum to it",
    "data_wait_seconds": "Time in steps that stayed during which they waited for data",
    "time_left_seconds": "Time in steps until the end of the run",
    "end_timestamp_seconds": "When the run will be done, if it goes on as in its last days",
    "attempts": "Starts of the run",
    "failures": "Attempts that ended by a failure",
    "lost_steps": "Steps that were trained and undone",
    "skipped_steps": "Steps that stayed and changed no weight",
    "checkpoints_written": "Checkpoints that were written",
    "failed_saves": "Checkpoints that could not be written",
    "rollbacks": "Roll-backs by the guard",
    "hangs": "Hangs that the watchdog ended",
    "checkpoint_step": "Step of the newest checkpoint",
    "checkpoint_timestamp_seconds": "When the newest checkpoint was written",
    "sign_of_life_timestamp_seconds": "When the run last wrote a step or an event",
    "disk_free_bytes": "Free on the file system of the checkpoints",
    "disk_full_in_seconds": "Time until the disk is full at the growth of this run",
    "peak_memory_bytes": "Most memory that rank 0 has held, by the newest event that says so",
}
"""Every metric without its prefix, and its help text; one text for all files, which node_exporter demands."""
PREFIX = "jadeberta_"


def publish(run: CleanRun, out: Path) -> str:
    """Replaces the text file of a run in a directory; returns what was done.

    Raises:
        OSError: it cannot be written.
    """
    out.mkdir(parents=True, exist_ok=True)
    path = out / f"jadeberta-{re.sub(r'[^A-Za-z0-9._-]', '_', run.name)[:80]}-{run.id[:6]}.prom"
    write_atomically(path, render(run).encode(errors="replace"), durable=False)
    path.chmod(0o644)  # node_exporter is another user
    return f"{path}: written"


def render(run: CleanRun) -> str:
    """Returns the text; figures that are not known are left out."""
    lines, last = [], ""
    # Names of two runs, and of one at two places, may be the same; the series must not be.
    common = {"run": run.name, "id": run.id[:6]}
    for name, labels, value in _samples(run):
        if value is None or not math.isfinite(value):
            continue
        if name != last:
            lines += [f"# HELP {PREFIX}{name} {HELP[name]}.", f"# TYPE {PREFIX}{name} gauge"]
            last = name
        told = ",".join(f'{key}="{_escaped(text)}"' for key, text in (common | labels).items())
        lines.append(f"{PREFIX}{name}{{{told}}} {value!r}")
    return "\n".join(lines) + "\n"


def _samples(run: CleanRun) -> Iterator[tuple[str, dict[str, str], float | None]]:
    """Name, labels and value of each sample, those of a name together."""
    facts, result = run.facts, run.facts.result
    verdict = judge(facts)
    yield "run_info", {"directory": str(run.path.resolve()), "state": facts.state}, 1.0
    yield "needs_attention", {"reason": verdict.reason}, float(verdict.level == "needs-you")
    yield "up", {}, float(facts.state == "running")
    yield "step", {}, float(result.step)
    yield "planned_steps", {}, _number(facts.goal.max_steps)
    yield "trained_tokens", {}, float(result.tokens)
    yield "loss", {}, result.loss
    newest = next((history.steps[-1:] for history in reversed(facts.histories) if len(history.steps)), None)
    if newest is not None:
        yield "learning_rate", {}, float(str(newest.lr[0]))  # the shortest digits of a number in single precision
        yield "gradient_norm", {}, float(str(newest.grad_norm[0]))
    figures = held_out(run.evaluations[-1].row) if run.evaluations else {}
    for kind, name in (("accuracy", "held_out_accuracy_ratio"), ("loss", "held_out_loss")):
        for tag, value in figures.items():
            if tag.startswith(f"held_out/{kind}/"):
                yield name, {"corpus": tag.split("/", 2)[2]}, value
    yield "step_duration_seconds", {}, result.step_s
    yield "tokens_per_second", {}, result.tokens_per_second
    yield "model_flops_utilization_ratio", {}, result.mfu
    yield "goodput_ratio", {}, result.goodput
    yield "goodput_day_ratio", {}, verdict.goodput_24h
    for part in PARTS:
        yield "time_seconds", {"part": part.removesuffix("_s")}, getattr(result, part)
    yield "data_wait_seconds", {}, result.data_wait_s
    yield "time_left_seconds", {}, training_left_s(result, facts.goal)
    yield "end_timestamp_seconds", {}, verdict.ends
    yield "attempts", {}, float(len(result.attempts))
    yield "failures", {}, float(result.failures)
    yield "lost_steps", {}, float(result.lost_steps)
    yield "skipped_steps", {}, float(result.skipped_steps)
    yield "checkpoints_written", {}, float(result.saves)
    yield "failed_saves", {}, float(result.failed_saves)
    yield "rollbacks", {}, float(result.rollbacks)
    yield "hangs", {}, float(len(result.hangs))
    checkpoints = list_checkpoints(run.path / "checkpoints")
    yield "checkpoint_step", {}, float(step_of(checkpoints[-1])) if checkpoints else None
    saves = [event.time for event in run.events if event.row.get("event") == "save"]
    yield "checkpoint_timestamp_seconds", {}, max(saves, default=None)
    yield "sign_of_life_timestamp_seconds", {}, facts.last
    yield "disk_free_bytes", {}, _number(facts.disk.free if facts.disk else None)
    yield "disk_full_in_seconds", {}, None if verdict.disk_days is None else 86400 * verdict.disk_days
    peaks = [e.row for e in run.events if finite(e.row, "peak_memory_bytes") is not None]
    yield "peak_memory_bytes", {}, finite(max(peaks, key=time_of), "peak_memory_bytes") if peaks else None


def _number(value: float | None) -> float | None:
    return None if value is None else float(value)


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
