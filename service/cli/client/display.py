"""Text for people. Whatever comes from a server or a folder goes through `show` before it reaches a terminal."""

import re
from datetime import UTC, datetime
from typing import Final

UNSHOWN: Final = re.compile(
    "[\x00-\x1f\x7f-\x9f"  # C0, DEL and C1: they move the cursor, set colours, answer back
    "\u00ad\u061c\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb"  # bidi controls, and what cannot be seen
    "\U000e0000-\U000e0fff\ud800-\udfff]"  # tags; halves of surrogate pairs: bytes of a local name that are no UTF-8
)
"""Not among them: U+200C and U+200D, which Persian, Indic scripts and emoji are written with."""
SHORT: Final = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}
UNITS: Final = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")


def show(text: str) -> str:
    """The text with everything escaped that a terminal would obey, reorder or hide: on one line, and always the same length of its own."""
    return UNSHOWN.sub(escape, text)


def escape(match: re.Match[str]) -> str:
    character = match[0]
    number = ord(character)
    if 0xDC80 <= number <= 0xDCFF:
        return f"\\x{number - 0xDC00:02x}"  # the byte that Python could not decode
    if number < 0x100:
        return SHORT.get(character, f"\\x{number:02x}")
    return f"\\u{number:04x}" if number < 0x10000 else f"\\U{number:08x}"


def show_size(size: float) -> str:
    """`999 B`, `1.5 KiB`, `12 MiB`: at most four characters and a unit."""
    unit = UNITS[0]
    for unit in UNITS:
        if size < 999.5 or unit == UNITS[-1]:
            break
        size /= 1024
    digits = 0 if unit == "B" or size >= 9.95 else 1
    return f"{size:.{digits}f} {unit}"


def show_time(moment: datetime) -> str:
    """In UTC, to the second."""
    return f"{moment.astimezone(UTC):%Y-%m-%d %H:%M:%S}"


def show_seconds(seconds: float) -> str:
    """`0:07`, `12:05`, `3:00:00`."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
