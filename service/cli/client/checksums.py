"""Lines in the format of `sha256sum -c`."""

from typing import Final

ESCAPES: Final = {"\\": "\\\\", "\n": "\\n", "\r": "\\r"}
"""The escapes of GNU coreutils. A line that has one begins with a backslash."""


def format_checksum(digest: str, name: str) -> str:
    if not any(character in name for character in ESCAPES):
        return f"{digest}  {name}"
    return f"\\{digest}  {''.join(ESCAPES.get(character, character) for character in name)}"
