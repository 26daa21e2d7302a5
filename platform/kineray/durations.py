"""Spans of time as people read and write them."""

import re


def duration(seconds: float) -> str:
    """``75`` -> ``1m15s``."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours}h{minutes:02d}m"
    return f"{minutes}m{rest:02d}s" if minutes else f"{rest}s"


def seconds_of(text: str) -> float:
    """``1m30s`` -> ``90.0``. Raises ValueError if it is no such text, or no time at all."""
    found = re.fullmatch(r"(?:(\d+)h)?(?:(\d+)m)?(?:(\d+)s)?", text)
    hours, minutes, seconds = (int(part or 0) for part in (found.groups() if found else (0, 0, 0)))
    total = 3600.0 * hours + 60.0 * minutes + seconds
    if not total:
        raise ValueError(f"{text!r} is not a time such as 90s, 10m or 1h30m")
    return total
