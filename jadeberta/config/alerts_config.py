"""The recipe's section `alerts`: what `jadeberta status` and `report` measure a run by, and when they call a person."""

import datetime
import shlex
import time
from dataclasses import dataclass

from jadeberta.errors import ConfigError


@dataclass
class AlertsConfig:
    """What a run is measured by from outside; the training itself reads none of it."""

    command: str = ""
    """Command line that `jadeberta watch` runs once an event, without a shell: the event as JSON on standard input, its text in
    JADEBERTA_ALERT. Put no secret into it; empty: none."""
    goodput_below: float = 0.0
    """Share of the last 24 hours in steps that stayed, below which the verdict on the run says so: 0.8 is 80%; 0: no bound."""
    done_by: str = ""
    """Day by which the run is planned to be done, such as 2027-01-14; empty: no plan."""


def end_of_day(day: str) -> float | None:
    """Returns the unix time at which a day ends in local time; None for an empty text.

    Raises:
        ConfigError: the text is no day.
    """
    if not day:
        return None
    try:
        found = datetime.date.fromisoformat(day)
        return time.mktime((found + datetime.timedelta(days=1)).timetuple())
    except (ValueError, TypeError, OverflowError):
        raise ConfigError(f"alerts.done_by is {day}; it must be a day, such as 2027-01-14.") from None


def split_command(command: str, source: str) -> list[str]:
    """Splits a command line as a shell does, without starting one.

    Args:
        command: command line.
        source: where it stands, for the message.

    Raises:
        ConfigError: a quote is not closed, or there is no word in it.
    """
    try:
        words = shlex.split(command)
    except ValueError as e:
        raise ConfigError(f"{source} is {command!r}, which is no command line: {str(e)[:1].lower()}{str(e)[1:]}.") from None
    if not words or "\0" in command:
        raise ConfigError(f"{source} is {command!r}; name a program and its options.")
    return words


def check_alerts(alerts: AlertsConfig) -> None:
    """Raises ConfigError where the command line cannot be split, a bound cannot be met or the day is none."""
    if alerts.command:
        split_command(alerts.command, "alerts.command")
    if not 0 <= alerts.goodput_below < 1:
        raise ConfigError(f"alerts.goodput_below is {alerts.goodput_below}; it is a share, at least 0 and below 1.")
    end_of_day(alerts.done_by)
