"""Durations for people."""

DAY_S = 86400
"""Seconds of a day."""


def format_duration(seconds: float) -> str:
    """Returns a duration such as 36d 04h, 2h 05m, 3m 20s or 12s; 0.35 s below a second."""
    if 0 < seconds < 1:
        return f"{seconds:.2f} s"
    s = int(seconds)
    if s >= DAY_S:
        return f"{s // DAY_S}d {s % DAY_S // 3600:02d}h"
    if s >= 3600:
        return f"{s // 3600}h {s % 3600 // 60:02d}m"
    return f"{s // 60}m {s % 60:02d}s" if s >= 60 else f"{s}s"
