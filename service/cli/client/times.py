"""Times as people write them on a command line."""

import re
from datetime import UTC, datetime, timedelta
from typing import Final

UNITS: Final = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}


def parse_span(text: str) -> timedelta:
    """Seconds, or such as `15m`, `1h`, `7d`. Raises ValueError."""
    match = re.fullmatch(r"(\d{1,9})([smhd]?)", text, re.ASCII)
    if not match or int(match[1]) == 0:
        raise ValueError(f"{text!r} is no time: write seconds, or such as 15m, 1h, 7d")
    try:
        return timedelta(seconds=int(match[1]) * UNITS[match[2]])
    except OverflowError as error:
        raise ValueError(f"{text!r} is too long a time") from error


def parse_moment(text: str, now: datetime) -> datetime:
    """A time ago (`2h`), a date, or a date and time (RFC 3339); without an offset it is this machine's time. Raises ValueError."""
    try:
        if re.fullmatch(r"\d{1,9}[smhd]", text, re.ASCII):
            return now - parse_span(text)
        return datetime.fromisoformat(text).astimezone(UTC)
    except (ValueError, OverflowError) as error:
        raise ValueError(
            f"{text!r} is no time: write such as 2h (ago), 2026-01-31 or 2026-01-31T12:00:00Z"
        ) from error
