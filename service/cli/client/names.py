"""Checks of names that a server sends.

An unsafe name is refused and never changed, and the user can choose another one.

A file's name is one component of a path. Separators, `.` and `..`, control characters,
bidirectional overrides (which show `gpj.exe` as `exe.jpg`), names of Windows devices, and names of
more than 255 bytes are refused on every system, so that fetched files can be copied anywhere. What
only the file systems of Windows interpret differently is refused only there.
"""

import os
import re
from typing import Final

CONTROLS: Final = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029]")
OVERRIDES: Final = re.compile("[\u202a-\u202e\u2066-\u2069]")
DEVICES: Final = re.compile(
    r"(?i)(con|prn|aux|nul|conin\$|conout\$|(com|lpt)[0-9¹²³])[ ]*([.:].*)?"
)
ON_WINDOWS: Final = re.compile(r'[<>:"|?*]|[. ]$')
LONGEST_BYTES: Final = 255


class UnsafeName(Exception):
    """A name that is not safe. The text says why."""


class HiddenName(Exception):
    """A name that begins with a dot. The text says so."""


def check_visible(names: list[str]) -> None:
    """Raise HiddenName if one of the names is hidden."""
    for name in names:
        if name.startswith("."):
            raise HiddenName(f"{name} is hidden")


def check_name(name: str, *, windows: bool = os.name == "nt") -> str:
    if name in ("", ".", ".."):
        raise UnsafeName("it names a folder")
    if "/" in name or "\\" in name:
        raise UnsafeName("it contains a path separator")
    if CONTROLS.search(name):
        raise UnsafeName("it contains a control character")
    if OVERRIDES.search(name):
        raise UnsafeName("it contains a character that changes the direction of text")
    if DEVICES.fullmatch(name):
        raise UnsafeName("it is the name of a device on Windows")
    if windows and ON_WINDOWS.search(name):
        raise UnsafeName("Windows would interpret it as another name")
    return check_length(name)


def check_length(name: str) -> str:
    try:
        length = len(name.encode())
    except UnicodeEncodeError as error:
        raise UnsafeName("it is not Unicode") from error
    if length > LONGEST_BYTES:
        raise UnsafeName(f"it has {length} bytes, but at most {LONGEST_BYTES} are allowed")
    return name


def split_path(path: str, *, windows: bool = os.name == "nt") -> list[str]:
    """Return the components of a stored path, which is relative with `/` between them.

    Raises UnsafeName.
    """
    if path.startswith(("/", "\\")):
        raise UnsafeName("it is absolute")
    if re.match(r"[A-Za-z]:", path):
        raise UnsafeName("it begins with a drive")
    names = path.split("/")
    for name in names:
        if name == "..":
            raise UnsafeName("it contains `..`, which leads out of its folder")
        check_name(name, windows=windows)
    return names
