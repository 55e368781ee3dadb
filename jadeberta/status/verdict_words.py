"""Times, sizes and messages as the verdict on a run says them: in local time, in plain words, never more than a line."""

import time

from jadeberta.utils.durations import DAY_S, format_duration

LONGEST_CAUSE = 300
"""Characters of a message of the run that a sentence takes."""
MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")


def plain(text: object) -> str:
    """Returns a message of the run as part of a sentence: on one line, without its full stop, cut where it is long."""
    words = " ".join("".join(c if c.isprintable() else " " for c in ("" if text is None else str(text))).split())
    return (words if len(words) <= LONGEST_CAUSE else words[: LONGEST_CAUSE - 1] + "…").rstrip(". ")


def clock(at: float | None, now: float) -> str:
    """Returns a unix time in local time: 03:12 within the last 20 hours, else 27 Nov 03:12, with the year where it is another one."""
    if at is None:
        return "an unknown time"
    try:
        then, today = time.localtime(at), time.localtime(now)
    except (OverflowError, ValueError, OSError):
        return "an unknown time"
    hour = f"{then.tm_hour:02d}:{then.tm_min:02d}"
    return hour if 0 <= now - at < 20 * 3600 else f"{_day(then, today)} {hour}"


def format_date(at: float, now: float) -> str:
    """Returns the local date of a unix time: 27 Nov, with the year where it is another one."""
    try:
        return _day(time.localtime(at), time.localtime(now))
    except (OverflowError, ValueError, OSError):
        return "an unknown day"


def _day(then: time.struct_time, today: time.struct_time) -> str:
    year = f" {then.tm_year}" if abs(then.tm_year * 12 + then.tm_mon - today.tm_year * 12 - today.tm_mon) > 6 else ""
    return f"{then.tm_mday} {MONTHS[then.tm_mon - 1]}{year}"


def format_end(ends: float, margin_s: float, now: float) -> str:
    """Returns an expected end with its range in local time: 14 Jan ± 1 day, or 18:40 ± 30m of a run that is done within a day."""
    try:
        then, today = time.localtime(ends), time.localtime(now)
    except (OverflowError, ValueError, OSError):
        return "in more years than a calendar has"
    if ends - now < DAY_S and margin_s < DAY_S / 4:
        return f"{then.tm_hour:02d}:{then.tm_min:02d} ± {format_duration(max(60.0, margin_s))}"
    return f"{_day(then, today)} ± {format_days(margin_s)}"


def format_days(seconds: float) -> str:
    """Returns whole days, at least one: 1 day, 3 days."""
    days = max(1, round(seconds / DAY_S))
    return f"{days:,} day{'s' * (days != 1)}"


def format_bytes(size: float) -> str:
    """Returns a size such as 1.5 GiB."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1024:
            return f"{size:.0f} B" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} TiB"
