"""One look at a run: what is new is sent, and recorded as sent, before the next event is."""

import os
import stat
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from jadeberta.alerts.deliver import deliver
from jadeberta.alerts.events import as_json, held_keys, new_events, rows_of_events
from jadeberta.alerts.sent import MOST_TRIES, after_try, folders_of, only_watcher, read_sent, refreshed, write_sent
from jadeberta.config.alerts_config import split_command
from jadeberta.errors import ConfigError
from jadeberta.status.facts import Facts, read_facts
from jadeberta.status.run_verdict import Verdict, judge
from jadeberta.utils.json_lines import read_jsonl


@dataclass(frozen=True)
class Seen:
    """What one look at a run has found."""

    facts: Facts
    verdict: Verdict
    sent: tuple[str, ...] = ()
    """Text of each event that was sent."""
    faults: tuple[str, ...] = ()
    """Why an event could not be sent, a sentence each."""
    busy: bool = False
    """Whether another watcher was sending, so that this one sent nothing."""


def look(
    run: Path,
    now: float,
    command: str = "",
    say: Callable[[str], None] = print,
) -> Seen:
    """Looks at a run once and sends what is new.

    Args:
        run: run directory.
        now: unix time.
        command: command line for events instead of the recipe's `alerts.command`.
        say: takes the text of an event of a run without a command.

    Raises:
        InputError: the directory holds no run.
        ConfigError: the command is wrong, or no folder for what was sent can be written.
        OutputError: what was sent cannot be recorded.
    """
    facts = read_facts(run, now)
    verdict = judge(facts)
    source = "--command" if command else f"alerts.command of {run / 'recipe.yaml'}"
    words = split_command(command or facts.bounds.alerts.command, source) if command or facts.bounds.alerts.command else []
    if words and not command:
        _require_own(run / "recipe.yaml")
    folders = folders_of(run)
    with only_watcher(folders) as alone:
        if not alone:
            return Seen(facts, verdict, busy=True)
        rows = rows_of_events(read_jsonl(run / "ledger.jsonl"))
        sent = read_sent(folders)
        events = new_events(facts, verdict, rows, sent)
        before, sent = sent, refreshed(sent, held_keys(facts, verdict), len(rows), now)
        texts, faults, stuck = [], [], False
        for event in events:
            if stuck and event.row is not None:
                continue  # rows go out in order: the number of the last one is all that is kept
            content = as_json(event, facts, verdict)
            fault = ""
            if words:
                fault = deliver(words, content).fault
            else:
                say(content["text"])
            sent, over = after_try(sent, event, now, not fault)
            if fault:
                stuck = stuck or (event.row is not None and not over)
                more = f"It is given up after {MOST_TRIES} passes." if over else "The next pass tries again."
                faults.append(f"{run}: the alert '{event.kind}' was not sent: {fault} ({source}). {more}")
            else:
                texts.append(content["text"])
            # Before the next one: a watcher that is killed sends one event again at most.
            write_sent(folders, sent)
        if not events and sent != before:
            write_sent(folders, sent)
    return Seen(facts, verdict, tuple(texts), tuple(faults))


def _require_own(recipe: Path) -> None:
    """Raises ConfigError where somebody else could have written the command: to watch a colleague's run must not run his programs."""
    try:
        found = recipe.stat()
    except OSError:
        return  # then there is no command in it
    if found.st_uid not in (os.geteuid(), 0) or found.st_mode & stat.S_IWOTH:
        raise ConfigError(
            f"{recipe}: its alerts.command is not run, because the file belongs to user {found.st_uid} or anybody may write it; "
            "give the command with --command."
        )
