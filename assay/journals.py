"""The journal of an upload: a small file from which a later run continues an interrupted upload.

Each line is one JSON object:

1. `Opening`: the server, the declaration, the source's fingerprint, and the Idempotency-Key.
   It is written and synced to the disk before anything is sent. If the response to the declaration
   is lost, the next run finds the file by that key.
2. `DeclaredAs`: the file's id, as soon as it is known.
3. `SentPart`: the digest of a part, written before the part is sent. The store's list shows which
   parts have arrived. The journal records which bytes they had.

A line that was truncated by a crash is ignored, and its part is sent again.
The journal is locked while it is in use, and removed when the upload is final.
A different declaration (a new name, other metadata) is a different upload, for which the journal is
started again. The same declaration with a different fingerprint raises SourceChanged.
"""

import hashlib
import os
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, Self
from uuid import UUID

import msgspec

from assay.errors import SourceChanged, TargetFailed
from assay.locks import is_still, lock
from assay.sources import Fingerprint, Source
from assay.times import KEY, format_time

ENDING: Final = ".upload"
PRIVATE: Final = 0o600


class Opening(msgspec.Struct, frozen=True, tag="opening"):
    """The identity of an upload. `key` is its Idempotency-Key."""

    url: str
    fields: dict[str, Any]
    fingerprint: Fingerprint | None
    key: str


class DeclaredAs(msgspec.Struct, frozen=True, tag="declared"):
    file: UUID


class SentPart(msgspec.Struct, frozen=True, tag="part"):
    number: int
    sha256: str


Line = Opening | DeclaredAs | SentPart
read_line = msgspec.json.Decoder(Line).decode


class Journal:
    """The state of one upload. Without a descriptor, it is kept only in memory."""

    def __init__(
        self, opening: Opening, *, path: Path | None = None, descriptor: int | None = None
    ) -> None:
        self.opening = opening
        self.path = path
        self.file: UUID | None = None
        self.parts: dict[int, str] = {}
        self._descriptor = descriptor

    @property
    def key(self) -> str:
        return self.opening.key

    def note_file(self, file: UUID) -> None:
        self.file = file
        self._write(DeclaredAs(file))

    def note_part(self, number: int, sha256: str) -> None:
        if self.parts.get(number) != sha256:
            self.parts[number] = sha256
            self._write(SentPart(number, sha256))

    def _write(self, line: Line, *, anew: bool = False) -> None:
        """Append a line in a single write, so that the lines of several threads do not mix.

        With `anew`, it becomes the only line, and is synced to the disk.
        """
        if self._descriptor is None:
            return
        try:
            if anew:
                os.ftruncate(self._descriptor, 0)
            os.write(self._descriptor, msgspec.json.encode(line) + b"\n")
            if anew:
                os.fsync(self._descriptor)
        except OSError as error:
            raise TargetFailed(f"{self.path}: {error.strerror}") from error

    def begin_anew(self) -> None:
        """Discard the recorded upload, and start another one under a new key."""
        self._begin(make_key())

    def begin_again(self) -> None:
        """Start another upload of the same bytes, under a key that follows from the first one.

        A run that repeats the first upload under its key then finds the second one as well.
        """
        self._begin(hashlib.sha256(f"{self.key} again".encode()).hexdigest()[:32])

    def _begin(self, key: str) -> None:
        self.opening = msgspec.structs.replace(self.opening, key=key)
        self.file, self.parts = None, {}
        self._write(self.opening, anew=True)

    def remove(self) -> None:
        if self.path is not None:
            self.path.unlink(missing_ok=True)

    def close(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    @classmethod
    def in_memory(cls, url: str, fields: Mapping[str, Any], *, key: str | None = None) -> Self:
        """Return a journal without a file, for an upload that cannot be resumed."""
        return cls(Opening(url, dict(fields), None, key or make_key()))


def open_journal(
    place: str | os.PathLike[str],
    url: str,
    fields: Mapping[str, Any],
    *,
    source: Source,
    restart: bool,
    key: str | None = None,
) -> Journal:
    """Open and lock the journal at a path, or the journal of this source in an existing folder.

    `key` is used only if the journal is new or started again. Raises SourceChanged, InProgress and
    TargetFailed. Raises ValueError if the file is not a journal, or if the source has no path and
    `place` is a folder.
    """
    path, named_here = Path(place), Path(place).is_dir()
    if named_here:
        path = path / name_journal(url, source)
    opening = Opening(url, dict(fields), source.fingerprint, key or make_key())
    descriptor = open_locked(path)
    try:
        journal = read_journal(path, descriptor, is_ours=named_here)
        if journal is None or restart or is_another(journal.opening, opening):
            journal = Journal(opening, path=path, descriptor=descriptor)
            journal.begin_anew()
        if journal.opening.fingerprint != opening.fingerprint:
            raise SourceChanged(
                f"{source.name} has changed since its upload began: "
                f"start again (restart), or remove {path}",
                path,
            )
    except BaseException:
        os.close(descriptor)
        raise
    return journal


def name_journal(url: str, source: Source) -> str:
    """Return the file name for one server and path. Raises ValueError if there is no path."""
    if source.path is None:
        raise ValueError(
            "resume: a folder can hold the state of paths only; give a file for this source"
        )
    return (
        hashlib.sha256(f"{url}\0{source.path}".encode(errors="surrogateescape")).hexdigest()[:40]
        + ENDING
    )


def open_locked(path: Path) -> int:
    """Open and lock the journal at the path, and return its descriptor.

    If there is none, create an empty one. The process that has the lock writes its first line, so
    no hard link and no rename is needed. A process that is killed before it has written the line
    leaves an empty journal. The next run starts it, because nothing was sent before that line.
    On a file system without locks, two runs at the same time may write to one journal. Raises
    InProgress and TargetFailed.
    """
    flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0)
    while True:
        try:
            descriptor = os.open(path, flags | getattr(os, "O_BINARY", 0), PRIVATE)
        except OSError as error:
            raise TargetFailed(f"{path}: {error.strerror}") from error
        try:
            lock(descriptor, f"the upload with the state {path}")
        except BaseException:
            os.close(descriptor)
            raise
        if is_still(descriptor, path):
            return descriptor
        os.close(descriptor)


def read_journal(path: Path, descriptor: int, *, is_ours: bool) -> Journal | None:
    """Read the journal. Return None if it is empty or was lost.

    A power failure may leave NULs in place of the content. Raises ValueError for any other file,
    which must not be overwritten unless its name shows that it `is_ours`.
    """
    journal, content = None, path.read_bytes()
    for line in content.split(b"\n"):
        try:
            found = read_line(line)
        except (ValueError, RecursionError):  # also for text that is not UTF-8
            continue  # truncated by a crash
        if isinstance(found, Opening):
            journal = Journal(found, path=path, descriptor=descriptor)
        elif journal is not None and isinstance(found, DeclaredAs):
            journal.file = found.file
        elif journal is not None and isinstance(found, SentPart):
            journal.parts[found.number] = found.sha256
    if journal is None and content.strip(b"\0 \r\n\t") and not is_ours:
        raise ValueError(f"{path} is not the state of an upload")
    if content and not content.endswith(b"\n"):
        os.write(descriptor, b"\n")  # ends a truncated line, so that the next line is readable
    return journal


def is_another(found: Opening, opening: Opening) -> bool:
    """Return whether the server or the declaration differs.

    What belongs to the source is not compared, because a changed source is not another upload.
    """
    return found.url != opening.url or describe_upload(found) != describe_upload(opening)


def describe_upload(opening: Opening) -> dict[str, Any]:
    """Return the declaration without its size, and without the value of the source's own time."""
    fields = {name: value for name, value in opening.fields.items() if name != "size"}
    time = fields.get("metadata", {}).get(KEY)
    if opening.fingerprint and time == format_time(opening.fingerprint.mtime_ns):
        fields["metadata"] = {**fields["metadata"], KEY: None}
    return fields


def make_key() -> str:
    return secrets.token_hex(16)
