"""The checkpoints of a run: which are there, when each was read back, and why it is kept. Pure functions."""

from typing import Any

from jadeberta.checkpoint.manifest import STEP_NAME
from jadeberta.report.run_facts import RunFacts
from jadeberta.utils.json_lines import finite

MOST_ROWS = 400


def verified_steps(facts: RunFacts) -> dict[int, float]:
    """Returns the unix time at which the checkpoint of a step was last read back as it was written; a later fault removes it."""
    found: dict[int, float] = {}
    for event in facts.events:
        step = finite(event, "step")
        if event.get("event") == "verified" and step is not None:
            if event.get("faults") or event.get("error"):
                found.pop(int(step), None)
            else:
                found[int(step)] = float(event["time"])
    return found


def checkpoint_rows(facts: RunFacts) -> list[dict[str, Any]]:
    """Returns step, `written` and `verified` (unix times or None), stall and write seconds, and `kept` of each checkpoint on the disk."""
    saves: dict[int, dict[str, Any]] = {}
    for event in facts.events:
        if event.get("event") == "save" and (step := finite(event, "step")) is not None:
            saves[int(step)] = event
    verified, bounds = verified_steps(facts), facts.seen.bounds
    rows = []
    for place, path in enumerate(reversed(facts.checkpoints)):
        match = STEP_NAME.fullmatch(path.name)
        assert match is not None
        step = int(match[1])
        save = saves.get(step, {})
        if bounds.keep_last == 0:
            kept = "all are kept (checkpoint.keep_last is 0)"
        elif bounds.keep_every and step % bounds.keep_every == 0:
            kept = f"for good: a multiple of checkpoint.keep_every, {bounds.keep_every:,}"
        elif place < bounds.keep_last:
            kept = f"one of the newest {bounds.keep_last}"
        else:
            kept = "until newer ones are verified"
        rows.append(
            {
                "step": step,
                "written": finite(save, "time"),
                "verified": verified.get(step),
                "stall_s": finite(save, "stall_s"),
                "write_s": finite(save, "write_s"),
                "kept": kept,
            }
        )
    return rows[:MOST_ROWS]
