"""All figures of a report as plain data: what the page shows, and what lies in it as JSON for programs."""

from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from jadeberta.report.checkpoint_rows import checkpoint_rows
from jadeberta.report.chronicle import chronicle
from jadeberta.report.data_rows import data
from jadeberta.report.host_rows import host_rows
from jadeberta.report.hours_by_cause import hours
from jadeberta.report.report_curves import curves
from jadeberta.report.report_tiles import tiles
from jadeberta.report.run_facts import RunFacts
from jadeberta.report.settings_rows import changes, program_rows, settings_rows
from jadeberta.report.slow_rows import network_rows, slow_rows
from jadeberta.report.step_speed import heat, speed

Figures = dict[str, Any]

PARTS: dict[str, tuple[str, Callable[[RunFacts], Any]]] = {
    "tiles": ("the figures at the head", lambda facts: [asdict(tile) for tile in tiles(facts)]),
    "chronicle": ("the chronicle", lambda facts: [asdict(line) for line in chronicle(facts)]),
    "curves": ("the curves", curves),
    "hours": ("the hours by cause", hours),
    "speed": ("the speed", speed),
    "heat": ("the hosts by time", heat),
    "hosts": ("the hosts", host_rows),
    "slow_ranks": ("the slow ranks", slow_rows),
    "slow_network": ("the slow network", network_rows),
    "data": ("the data", data),
    "checkpoints": ("the checkpoints", checkpoint_rows),
    "settings": ("the settings", settings_rows),
    "changes": ("the changed settings", changes),
    "program": ("the program", program_rows),
}
"""Parts of a report by their key in the JSON: name in words, and the function that makes it."""


def figures_of(facts: RunFacts) -> Figures:
    """Returns all figures of a run; a part that its files do not allow is None, and a sentence in `notes`."""
    verdict = facts.verdict
    found: Figures = {
        "name": facts.name,
        "run": str(facts.run),
        "state": facts.seen.state if facts.histories or facts.seen.jobs.job is not None else "not begun",
        "read_at": facts.seen.now,
        "at": facts.at,
        "began": facts.began,
        "verdict": None if verdict is None else asdict(verdict),
        "goodput": asdict(facts.goodput),
    }
    notes = list(facts.notes)
    for key, (words, make) in PARTS.items():
        try:
            found[key] = make(facts)
        except Exception as e:  # one hostile row must not cost the page
            found[key] = None
            notes.append(f"{words} could not be made from the files as they are ({type(e).__name__}).")
    return {**found, "notes": notes}
