"""What is sent: a path, a file object or bytes, read from any place in it by several threads; or a stream, read once from its start.

A file on disk has a fingerprint, size and time of change: when it differs, the bytes may be others.
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
"""Fills the view from a place, and says with how many bytes; 0 at the end."""


class Fingerprint(NamedTuple):
    """By which a file on disk is known again."""

    size: int
    mtime_ns: int


class Source:
    """Bytes of a known size that can be read from any place."""

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
        """As it is on disk now; None for what is in memory."""
        if self.descriptor is None:
            return None
        found = os.fstat(self.descriptor)
        return Fingerprint(found.st_size, found.st_mtime_ns)

    def check_unchanged(self) -> None:
        """Raises SourceChanged."""
        if self.look() != self.fingerprint:
            raise SourceChanged(f"{self.name} was changed while it was sent")

    def read_into(self, view: memoryview, offset: int) -> int:
        """Raises SourceChanged when the bytes are not there any more, SourceUnreadable."""
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
    """Bytes of an unknown number that can be read once."""

    def __init__(self, name: str, file: BinaryIO, *, owned: bool = False) -> None:
        self.name = name
        self._file = file
        self._owned = owned

    def read(self, size: int) -> bytes:
        """b"" at the end. Raises SourceUnreadable."""
        try:
            return self._file.read(size)
        except OSError as error:
            raise SourceUnreadable(f"{self.name}: {error.strerror or error}") from error

    def close(self) -> None:
        if self._owned:
            self._file.close()


def open_source(given: Readable) -> Source | Stream:
    """Raises SourceUnreadable, TypeError. A file object is sent from where it stands."""
    if isinstance(given, bytes | bytearray | memoryview):
        return from_memory(memoryview(given).cast("B"))
    if isinstance(given, str | os.PathLike):
        return from_path(Path(given))
    if not hasattr(given, "read") or hasattr(
        given, "encoding"
    ):  # a text file's bytes are not what it reads
        raise TypeError(
            f"expected a path, a binary file object or bytes, not {type(given).__name__}"
        )
    return from_file(given)


def read_in_order(source: Source) -> Callable[[int], bytes]:
    """A source as a stream is read. At its end it must be what it was at the start: raises SourceChanged, before the end is told."""
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
    """A pipe's or temporary file's `name` may be the number of its descriptor."""
    given: object = getattr(file, "name", None)
    return os.path.basename(given) or NAMELESS if isinstance(given, str) else NAMELESS


def reader(descriptor: int, start: int) -> ReadAt:
    """Reads that do not move the file's place, so that threads need not wait for each other."""
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
