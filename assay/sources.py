"""The sources of uploads.

A `Source` is a path, a file object or bytes. Several threads may read from any offset in it.
A `Stream` is read once, from its start.
A file on disk has a fingerprint: its size and its modification time. If the fingerprint differs,
the bytes may have changed.
"""

import io
import os
import stat
import threading
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO, Final, NamedTuple

from assay.errors import SourceChanged, SourceUnreadable

NAMELESS: Final = "upload"
Readable = str | os.PathLike[str] | BinaryIO | bytes | bytearray | memoryview
ReadAt = Callable[[memoryview, int], int]
"""A function that fills the view from an offset, and returns the number of bytes, 0 at the end."""


class Fingerprint(NamedTuple):
    """The properties by which a change of a file on disk is detected."""

    size: int
    mtime_ns: int


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
        if self.descriptor is None:
            return None
        found = os.fstat(self.descriptor)
        return Fingerprint(found.st_size, found.st_mtime_ns)

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
            raise SourceUnreadable(f"{self.name}: {error.strerror or error}") from error
        if filled == 0 and len(view):
            raise SourceChanged(f"{self.name} became shorter while it was sent")
        return filled

    def close(self) -> None:
        if self._owned and self.descriptor is not None:
            os.close(self.descriptor)


class Stream:
    """Bytes of an unknown number that can be read only once."""

    def __init__(self, name: str, file: BinaryIO, *, owned: bool = False) -> None:
        self.name = name
        self._file = file
        self._owned = owned

    def read(self, size: int) -> bytes:
        """Return at most `size` bytes, and b"" at the end. Raises SourceUnreadable."""
        try:
            return self._file.read(size)
        except OSError as error:
            raise SourceUnreadable(f"{self.name}: {error.strerror or error}") from error

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
        found = os.fstat(descriptor)
    except OSError as error:
        raise SourceUnreadable(f"{path}: {error.strerror}") from error
    if stat.S_ISDIR(found.st_mode):
        os.close(descriptor)
        raise SourceUnreadable(f"{path}: is a folder")
    if not stat.S_ISREG(found.st_mode):
        return Stream(path.name, os.fdopen(descriptor, "rb", buffering=0), owned=True)
    return Source(
        path.name,
        found.st_size,
        reader(descriptor, 0),
        descriptor=descriptor,
        path=path.resolve(),
        owned=True,
    )


def from_file(file: BinaryIO) -> Source | Stream:
    name = read_name(file)
    try:
        if not (hasattr(file, "seekable") and file.seekable()):
            return Stream(name, file)
        start, end = file.tell(), file.seek(0, os.SEEK_END)
        file.seek(start)
    except OSError as error:
        raise SourceUnreadable(f"{name}: {error}") from error
    if isinstance(file, io.FileIO | io.BufferedReader) and isinstance(
        getattr(file, "raw", file), io.FileIO
    ):
        return Source(name, end - start, reader(file.fileno(), start), descriptor=file.fileno())
    return Source(name, end - start, sharing(file, start))


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
            piece = file.read(len(target))
        target[: len(piece)] = piece
        return len(piece)

    return read_at
