"""The sources of uploads.

A `Source` is a path, a file object or bytes. Several threads may read from any offset in it.
A `Stream` is read once, from its start.
A file on disk has a fingerprint: its size and its modification time. If the fingerprint differs,
the bytes may have changed.

The size of a regular file is not always the number of its bytes. Linux generates the files of /proc
and /sys when they are read, and reports a size of 0 or of a page. Such a file is a `Stream`.
"""

import functools
import io
import os
import stat
import threading
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO, Final, NamedTuple

from assay.errors import SourceChanged, SourceUnreadable
from assay.waiting import read_when_ready

NAMELESS: Final = "upload"
PROBE_BYTES: Final = 4096
Readable = str | os.PathLike[str] | BinaryIO | bytes | bytearray | memoryview
ReadAt = Callable[[memoryview, int], int]
"""A function that fills the view from an offset, and returns the number of bytes, 0 at the end."""


class Fingerprint(NamedTuple):
    """The properties by which a change of a file on disk is detected."""

    size: int
    mtime_ns: int


def take_fingerprint(descriptor: int) -> Fingerprint:
    found = os.fstat(descriptor)
    return Fingerprint(found.st_size, fold_time(found.st_mtime_ns))


def fold_time(nanoseconds: int) -> int:
    """Return the time modulo 2**64, as a signed number of 64 bits.

    A time after the year 2262 has more bits than JSON decoders and SQLite accept.
    """
    return (nanoseconds + 2**63) % 2**64 - 2**63


class Source:
    """Bytes of a known size that can be read from any offset."""

    def __init__(
        self,
        name: str,
        size: int,
        read_at: ReadAt,
        *,
        descriptor: int | None = None,
        path: Path | None = None,
        owned: bool = False,
    ) -> None:
        self.name = name
        self.size = size
        self.path = path
        self.descriptor = descriptor
        self._read_at = read_at
        self._owned = owned
        self.fingerprint = self.look()

    def look(self) -> Fingerprint | None:
        """Return the present fingerprint, or None for bytes in memory."""
        return None if self.descriptor is None else take_fingerprint(self.descriptor)

    def check_unchanged(self) -> None:
        """Raise SourceChanged if the fingerprint has changed."""
        if self.look() != self.fingerprint:
            raise SourceChanged(f"{self.name} changed while it was sent")

    def read_into(self, view: memoryview, offset: int) -> int:
        """Fill the view from an offset, and return the number of bytes.

        Raises SourceChanged if the source has become shorter, and SourceUnreadable.
        """
        try:
            filled = self._read_at(view, offset)
        except OSError as error:
            raise SourceUnreadable(f"{self.name}: {explain(error)}") from error
        if filled == 0 and len(view):
            raise SourceChanged(f"{self.name} became shorter while it was sent")
        return filled

    def close(self) -> None:
        if self._owned and self.descriptor is not None:
            os.close(self.descriptor)


class Stream:
    """Bytes of an unknown number that can be read only once.

    `first` holds bytes that were already read from the file.
    """

    def __init__(
        self, name: str, file: BinaryIO, *, first: bytes = b"", owned: bool = False
    ) -> None:
        self.name = name
        self._file = file
        self._first = first
        self._owned = owned

    def read(self, size: int) -> bytes:
        """Return at most `size` bytes, and b"" at the end. Raises SourceUnreadable."""
        if self._first:
            piece, self._first = self._first[:size], self._first[size:]
            return piece
        try:
            return read_when_ready(self._file, size)
        except (OSError, ValueError) as error:
            raise SourceUnreadable(f"{self.name}: {explain(error)}") from error

    def close(self) -> None:
        if self._owned:
            self._file.close()


def open_source(given: Readable) -> Source | Stream:
    """Return a source or a stream for what the caller gave.

    A file object is read from its position on. Raises SourceUnreadable and TypeError.
    """
    if isinstance(given, bytes | bytearray | memoryview):
        return from_memory(memoryview(given).cast("B"))
    if isinstance(given, str | os.PathLike):
        return from_path(Path(given))
    # A text file is refused, because it returns characters and not the bytes on the disk.
    if not hasattr(given, "read") or hasattr(given, "encoding"):
        raise TypeError(
            f"expected a path, a binary file object or bytes, not {type(given).__name__}"
        )
    return from_file(given)


def read_in_order(source: Source) -> Callable[[int], bytes]:
    """Return a function that reads the source like a stream.

    Before it returns the end, the function checks the fingerprint. Raises SourceChanged.
    """
    place = 0

    def read(size: int) -> bytes:
        nonlocal place
        piece = bytearray(min(size, source.size - place))
        filled = source.read_into(memoryview(piece), place) if piece else 0
        place += filled
        if place == source.size:
            source.check_unchanged()
        return bytes(piece[:filled])

    return read


def from_memory(view: memoryview) -> Source:
    def read_at(target: memoryview, offset: int) -> int:
        piece = view[offset : offset + len(target)]
        target[: len(piece)] = piece
        return len(piece)

    return Source(NAMELESS, len(view), read_at)


def from_path(path: Path) -> Source | Stream:
    try:
        descriptor = os.open(
            path, os.O_RDONLY | getattr(os, "O_BINARY", 0) | getattr(os, "O_CLOEXEC", 0)
        )
    except OSError as error:
        raise SourceUnreadable(f"{path}: {error.strerror}") from error
    try:
        return from_descriptor(descriptor, path)
    except OSError as error:
        os.close(descriptor)
        raise SourceUnreadable(f"{path}: {explain(error)}") from error


def from_descriptor(descriptor: int, path: Path) -> Source | Stream:
    found, first = os.fstat(descriptor), None
    if stat.S_ISREG(found.st_mode):
        read = functools.partial(os.read, descriptor)
        first = find_unannounced(descriptor, read, start=0, size=found.st_size)
        if first is None:
            return Source(
                path.name,
                found.st_size,
                reader(descriptor, 0),
                descriptor=descriptor,
                path=path.resolve(),
                owned=True,
            )
    opened = os.fdopen(descriptor, "rb", buffering=0)  # raises OSError for a folder
    return Stream(path.name, opened, first=first or b"", owned=True)


def from_file(file: BinaryIO) -> Source | Stream:
    name = read_name(file)
    try:
        if not (hasattr(file, "seekable") and file.seekable()):
            return Stream(name, file)
        if is_on_disk(file):
            return from_disk(file, name)
        start, end = file.tell(), file.seek(0, os.SEEK_END)
        file.seek(start)
    except OSError as error:
        raise SourceUnreadable(f"{name}: {explain(error)}") from error
    return Source(name, end - start, sharing(file, start))


def is_on_disk(file: BinaryIO) -> bool:
    return (
        isinstance(file, io.FileIO | io.BufferedReader)
        and isinstance(getattr(file, "raw", file), io.FileIO)
        and stat.S_ISREG(os.fstat(file.fileno()).st_mode)
    )


def from_disk(file: BinaryIO, name: str) -> Source | Stream:
    descriptor, start = file.fileno(), file.tell()
    size = os.fstat(descriptor).st_size
    first = find_unannounced(descriptor, file.read, start=start, size=size)
    if first is not None:
        return Stream(name, file, first=first)
    return Source(name, max(size - start, 0), reader(descriptor, start), descriptor=descriptor)


def find_unannounced(
    descriptor: int, read: Callable[[int], bytes], *, start: int, size: int
) -> bytes | None:
    """Return None if the file ends at its size, and otherwise its first bytes, which may be none.

    Bytes are read from the position only if there should be none, because some files of the kernel
    give each byte only once. Raises OSError.
    """
    if size <= start:
        return read(PROBE_BYTES) or None
    if not hasattr(os, "pread"):  # Windows has no such files
        return None
    before = take_fingerprint(descriptor)
    ends_there = os.pread(descriptor, 1, size - 1) and not os.pread(descriptor, 1, size)
    return None if ends_there or take_fingerprint(descriptor) != before else b""


def explain(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)


def read_name(file: BinaryIO) -> str:
    """Return the base name of a file object, or NAMELESS.

    The `name` of a pipe or a temporary file may be the number of its descriptor.
    """
    given: object = getattr(file, "name", None)
    return os.path.basename(given) or NAMELESS if isinstance(given, str) else NAMELESS


def reader(descriptor: int, start: int) -> ReadAt:
    """Return a function that reads without moving the file position.

    Threads therefore need not wait for each other.
    """
    if hasattr(os, "preadv"):
        return lambda target, offset: os.preadv(descriptor, [target], start + offset)
    return sharing(os.fdopen(descriptor, "rb", buffering=0, closefd=False), start)


def sharing(file: BinaryIO, start: int) -> ReadAt:
    lock = threading.Lock()

    def read_at(target: memoryview, offset: int) -> int:
        with lock:
            file.seek(start + offset)
            piece = read_when_ready(file, len(target))
        target[: len(piece)] = piece
        return len(piece)

    return read_at
