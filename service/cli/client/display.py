"""Text for a terminal.

All text from a server or a folder passes through `show` before it is displayed.
"""

import re
from datetime import UTC, datetime
from typing import Final

UNSHOWN: Final = re.compile(
    "[\x00-\x1f\x7f-\x9f"  # C0, DEL and C1, which control the terminal
    # bidirectional and invisible ones
    "\u00ad\u061c\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb"
    # tags; surrogates, which stand for bytes that are not UTF-8
    "\U000e0000-\U000e0fff\ud800-\udfff]"
)
"""The characters that are escaped.

U+200C and U+200D are not, because Persian, Indic scripts and emoji need them.
"""
SHORT: Final = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}
UNITS: Final = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")


def show(text: str) -> str:
    """Return the text with every character escaped that a terminal would interpret, reorder or
    hide.

    The result is on one line.
    """
    return UNSHOWN.sub(escape, text)


def escape(match: re.Match[str]) -> str:
    character = match[0]
    number = ord(character)
    if 0xDC80 <= number <= 0xDCFF:
        return f"\\x{number - 0xDC00:02x}"  # a byte that Python could not decode
    if number < 0x100:
        return SHORT.get(character, f"\\x{number:02x}")
    return f"\\u{number:04x}" if number < 0x10000 else f"\\U{number:08x}"


def show_size(size: float) -> str:
    """Return a size such as `999 B`, `1.5 KiB` or `12 MiB`, of at most four
    characters and a unit.
    """
    unit = UNITS[0]
    for unit in UNITS:
        if size < 999.5 or unit == UNITS[-1]:
            break
        size /= 1024
    digits = 0 if unit == "B" or size >= 9.95 else 1
    return f"{size:.{digits}f} {unit}"


def show_time(moment: datetime) -> str:
    return f"{moment.astimezone(UTC):%Y-%m-%d %H:%M:%S}"


def show_seconds(seconds: float) -> str:
    """Return a time span such as `0:07`, `12:05` or `3:00:00`."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
