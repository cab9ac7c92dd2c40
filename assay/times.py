"""The modification time of a file, which uploads and downloads can keep as the metadata `mtime`.

Its form is the one of rclone: seconds since 1970-01-01 UTC as a decimal number, with a point before
the nanoseconds, such as `1764412345.123456789`. The times of all file systems fit into it.

A time that cannot be kept never ends a transfer. It is logged as a warning of the logger `assay`.
"""

import logging
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from assay.sources import Source, Stream, explain

KEY: Final = "mtime"
FORM: Final = re.compile(r"(-?)(\d{1,20})(?:\.(\d{1,9}))?", re.ASCII)
SECOND_NS: Final = 10**9
COARSEST_NS: Final = 2 * SECOND_NS
"""The steps in which FAT keeps times. No file system in use has longer ones."""
MOST_PAIRS: Final = 32
MOST_BYTES: Final = 4096
"""The server's limits of metadata: the number of pairs, and the bytes of all keys and values."""
SHOWN_CHARACTERS: Final = 40

log = logging.getLogger("assay")


def format_time(nanoseconds: int) -> str:
    seconds, rest = divmod(abs(nanoseconds), SECOND_NS)
    return f"{'-' if nanoseconds < 0 else ''}{seconds}.{rest:09}"


def parse_time(text: str) -> int:
    """Return the nanoseconds since 1970. Raises ValueError."""
    match = FORM.fullmatch(text)
    if match is None:
        raise ValueError(
            f"mtime is {text[:SHOWN_CHARACTERS]!r}, expected seconds such as 1764412345.123456789"
        )
    nanoseconds = int(match[2]) * SECOND_NS + int((match[3] or "").ljust(9, "0"))
    return -nanoseconds if match[1] else nanoseconds


def add_time(metadata: Mapping[str, str], source: Source | Stream) -> Mapping[str, str]:
    """Return the metadata with the source's modification time.

    Return it unchanged if it has an `mtime` already, if the source is not a file on disk, or if the
    server would refuse so much metadata.
    """
    if KEY in metadata or isinstance(source, Stream) or source.descriptor is None:
        return metadata
    added = {**metadata, KEY: format_time(os.fstat(source.descriptor).st_mtime_ns)}
    size = sum(len(text.encode(errors="replace")) for pair in added.items() for text in pair)
    if len(added) > MOST_PAIRS or size > MOST_BYTES:
        log.warning(
            "%s: its modification time is not sent, because its metadata has no space for it",
            source.name,
        )
        return metadata
    return added


def is_sent_as(found: Mapping[str, str], declared: Mapping[str, str]) -> bool:
    """Return whether a file's metadata is what was declared, with or without a time in addition."""
    return found == declared or declared == {
        key: value for key, value in found.items() if key != KEY
    }


def restore_time(partial: Path, path: Path, metadata: Mapping[str, str]) -> None:
    """Set the time in a file's metadata, if there is one, on the file that will be at `path`.

    If that is not possible, leave the time as it is. (Linux sets the nearest time that the file
    system can keep, without an error.)
    """
    if KEY not in metadata:
        return
    try:
        wanted, before = parse_time(metadata[KEY]), partial.stat()
        os.utime(partial, ns=(before.st_atime_ns, wanted))
        if abs(partial.stat().st_mtime_ns - wanted) > COARSEST_NS:
            os.utime(partial, ns=(before.st_atime_ns, before.st_mtime_ns))
            raise ValueError(f"the file system cannot keep {metadata[KEY]}")
    except (OSError, OverflowError, ValueError) as error:
        log.warning("%s: its modification time was not restored: %s", path, explain(error))
