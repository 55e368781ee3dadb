"""The figures of a report without host names, users and paths, for a page that others may see."""

import contextlib
import getpass
import os
import pwd
import re
import socket
from collections.abc import Callable
from typing import Any

from jadeberta.report.report_figures import Figures
from jadeberta.report.run_facts import RunFacts
from jadeberta.report.settings_rows import settings_rows
from jadeberta.report.slow_rows import hosts_of_pace
from jadeberta.report.step_speed import hosts_of
from jadeberta.utils.json_lines import names_in

PATH, ADDRESS = "(path)", "(address)"
LEFT_OUT = "(left out)"
PRIVATE_KEYS = ("alerts.command",)
"""Keys of a recipe whose values are left out whole."""
ADDRESSES = re.compile(r"[A-Za-z][\w+.-]*://\S+|[\w.+-]+@[\w.-]+\w")
PATHS = re.compile(r"(?<![\w<])(?:~[\w.-]*|\.{1,2})?/[^\s'\",;:()\[\]{}]*[^\s'\",;:()\[\]{}.]")
"""A path from the root, a home or the current directory; not the stroke of 'tokens/s'."""


def without_names(figures: Figures, facts: RunFacts) -> Figures:
    """Returns the figures of a run with every text changed that could name a host, a user or a place on a disk.

    Args:
        figures: of the run, under a name that may be seen.
        facts: of the run, which say which names there are.
    """
    shown = _replacer(facts)
    found: Figures = _mapped(figures, shown)
    found["run"] = ""
    if figures.get("settings"):
        found["settings"] = [(shown(key), _setting(key, value, shown)) for key, value in figures["settings"]]
    return found


def _setting(key: str, value: str, shown: Callable[[str], str]) -> str:
    if key.startswith(PRIVATE_KEYS):
        return LEFT_OUT
    return PATH if "/" in value else shown(value)


def _mapped(value: Any, shown: Callable[[str], str]) -> Any:
    if isinstance(value, str):
        return shown(value)
    if isinstance(value, dict):
        return {shown(key) if isinstance(key, str) else key: _mapped(each, shown) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_mapped(each, shown) for each in value]
    return value


def _replacer(facts: RunFacts) -> Callable[[str], str]:
    """A function that replaces names, addresses and paths in a text."""
    named = {host: f"host-{place}" for place, host in enumerate(_hosts(facts), 1)}
    named |= {host.split(".")[0]: name for host, name in named.items()}
    named |= dict.fromkeys(_users(facts), "user")
    named |= dict.fromkeys(_places(facts), PATH)
    # The longest first: a name may begin with another.
    names = [re.escape(text) for text in sorted(named, key=len, reverse=True) if text.strip()]
    known = re.compile(rf"(?<![\w-])(?:{'|'.join(names)})(?![\w-])") if names else None

    def shown(text: str) -> str:
        text = ADDRESSES.sub(ADDRESS, text)
        text = known.sub(lambda match: named[match[0]], text) if known else text
        return PATHS.sub(PATH, text)

    return shown


def _hosts(facts: RunFacts) -> list[str]:
    """Every name of a host in the files of a run, in the order of the alphabet."""
    found = {socket.gethostname()}
    for history in facts.histories:
        found |= set(hosts_of(facts, history))
        for event in history.events:
            suspects = event.get("suspects")
            named = [each.get("host") for each in suspects if isinstance(each, dict)] if isinstance(suspects, list) else []
            found |= {str(host) for host in (event.get("host"), *named) if host}
    for row in facts.records.rows:
        for key in ("hosts", "excluded", "blamed", "users_exclusions"):
            found |= set(names_in(row, key))
    for row in facts.paces:
        found |= set(hosts_of_pace(row))
    measured = facts.preflight.get("hosts")
    found |= {str(e["host"]) for e in measured if isinstance(e, dict) and e.get("host")} if isinstance(measured, list) else set()
    unfit = facts.preflight.get("unfit")
    found |= set(map(str, unfit)) if isinstance(unfit, dict) else set()
    found |= {str(beat["host"]) for beat in facts.seen.beats if beat.get("host")}
    return sorted(found)


def _users(facts: RunFacts) -> set[str]:
    found = {os.environ.get("USER", ""), os.environ.get("LOGNAME", "")}
    with contextlib.suppress(OSError, KeyError, ImportError):  # a number without a name
        found |= {getpass.getuser(), pwd.getpwuid(facts.run.stat().st_uid).pw_name}
    return found - {""}


def _places(facts: RunFacts) -> set[str]:
    """Paths that the run itself names, which may be relative."""
    found = {str(facts.run), str(facts.run.resolve())}
    found |= {value for _, value in settings_rows(facts) if "/" in value}
    for entry in facts.seen.goal.lineage:
        found |= {str(entry[key]) for key in ("source", "given") if entry.get(key)}
    return found
