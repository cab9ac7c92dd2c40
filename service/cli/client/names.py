"""What a name from a server may become on this machine. One that is not safe is refused, never mended: the user names another.

A file's name is one component of a path. Refused everywhere, so that what was fetched here can be copied anywhere without harm:
separators, `.` and `..`, control characters, bidi overrides (`gpj.exe` shown as `exe.jpg`), the names of Windows' devices, more than 255
bytes. Refused on Windows alone: what its file systems read in ways of their own.
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
    """Says what is wrong with it."""


def check_name(name: str, *, windows: bool = os.name == "nt") -> str:
    """The same name, when it is a plain one. Raises UnsafeName."""
    if name in ("", ".", ".."):
        raise UnsafeName("it names a folder")
    if "/" in name or "\\" in name:
        raise UnsafeName("it holds a path separator")
    if CONTROLS.search(name):
        raise UnsafeName("it holds a control character")
    if OVERRIDES.search(name):
        raise UnsafeName("it holds a character that turns the direction of text")
    if DEVICES.fullmatch(name):
        raise UnsafeName("it is the name of a device on Windows")
    if windows and ON_WINDOWS.search(name):
        raise UnsafeName("Windows reads it as another name")
    return check_length(name)


def check_length(name: str) -> str:
    """Raises UnsafeName."""
    try:
        length = len(name.encode())
    except UnicodeEncodeError as error:
        raise UnsafeName("it is not Unicode") from error
    if length > LONGEST_BYTES:
        raise UnsafeName(f"it has {length} bytes, {LONGEST_BYTES} is the most")
    return name


def split_path(path: str, *, windows: bool = os.name == "nt") -> list[str]:
    """The components of a kept path, which is relative, with `/` between them. Raises UnsafeName."""
    if path.startswith(("/", "\\")):
        raise UnsafeName("it is absolute")
    if re.match(r"[A-Za-z]:", path):
        raise UnsafeName("it begins with a drive")
    names = path.split("/")
    for name in names:
        if name == "..":
            raise UnsafeName("it leads out of its folder by `..`")
        check_name(name, windows=windows)
    return names
