"""Lines that `sha256sum -c` reads."""

from typing import Final

ESCAPES: Final = {"\\": "\\\\", "\n": "\\n", "\r": "\\r"}
"""As GNU coreutils writes them, behind a backslash at the line's beginning."""


def format_checksum(digest: str, name: str) -> str:
    """One line, without its end."""
    if not any(character in name for character in ESCAPES):
        return f"{digest}  {name}"
    return f"\\{digest}  {''.join(ESCAPES.get(character, character) for character in name)}"
