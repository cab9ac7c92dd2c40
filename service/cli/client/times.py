"""Times in the forms that the command line accepts."""

import re
from datetime import UTC, datetime, timedelta
from typing import Final

UNITS: Final = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}


def parse_span(text: str) -> timedelta:
    """Return a time span given in seconds or as `15m`, `1h`, `7d`. Raises ValueError."""
    match = re.fullmatch(r"(\d{1,9})([smhd]?)", text, re.ASCII)
    if not match or int(match[1]) == 0:
        raise ValueError(f"{text!r} is not a time; it must be in seconds, or like 15m, 1h, 7d")
    try:
        return timedelta(seconds=int(match[1]) * UNITS[match[2]])
    except OverflowError as error:
        raise ValueError(f"the time {text!r} is too long") from error


def parse_moment(text: str, now: datetime) -> datetime:
    """Return the time for a span before now (`2h`), a date, or a date and time (RFC 3339).

    Without an offset, it is this machine's time. Raises ValueError.
    """
    try:
        if re.fullmatch(r"\d{1,9}[smhd]", text, re.ASCII):
            return now - parse_span(text)
        return datetime.fromisoformat(text).astimezone(UTC)
    except (ValueError, OverflowError, OSError) as error:
        raise ValueError(
            f"{text!r} is not a time; it must be like 2h (ago), 2026-01-31 or 2026-01-31T12:00:00Z"
        ) from error
