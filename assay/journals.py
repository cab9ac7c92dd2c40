"""What a killed upload leaves behind, so that the next run can go on: one small file, a line of JSON each.

1. `Opening`: which server, which declaration, the source's fingerprint, and the Idempotency-Key. Written whole, and on the disk, before
   anything is sent: a declaration whose answer never came is found again by its key.
2. `DeclaredAs`: the file's id, as soon as it is known.
3. `SentPart`: a part's digest, before the part is sent. The store's list says which parts arrived, this says what they were.

A line that was cut by a crash is as if it were not there: that part is sent again. The journal is locked while it is in use, and goes when
the upload is final. Another declaration (a new name, other metadata) is another upload: the journal begins anew. The same declaration of
a source with another fingerprint: SourceChanged.
"""

import contextlib
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

ENDING: Final = ".upload"
PRIVATE: Final = 0o600


class Opening(msgspec.Struct, frozen=True, tag="opening"):
    """Which upload this is. `key` is its Idempotency-Key."""

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
    """One upload's state. Without a descriptor it is kept in memory alone."""

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

    def _write(self, line: Line) -> None:
        """In one go; other threads' lines are before or behind it."""
        if self._descriptor is None:
            return
        try:
            os.write(self._descriptor, msgspec.json.encode(line) + b"\n")
        except OSError as error:
            raise TargetFailed(f"{self.path}: {error.strerror}") from error

    def begin_anew(self) -> None:
        """The upload that it told of is over: the next one has another key."""
        self.opening = msgspec.structs.replace(self.opening, key=make_key())
        self.file, self.parts = None, {}
        if self._descriptor is not None:
            os.ftruncate(self._descriptor, 0)
            self._write(self.opening)
            os.fsync(self._descriptor)

    def remove(self) -> None:
        if self.path is not None:
            self.path.unlink(missing_ok=True)

    def close(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    @classmethod
    def in_memory(cls, url: str, fields: Mapping[str, Any], *, key: str | None = None) -> Self:
        """For an upload that nobody wants to go on with."""
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
    """The journal at a path, or in a folder that exists; `key` is for one that begins now.

    Raises SourceChanged, InProgress, TargetFailed, ValueError.
    """
    path, named_here = Path(place), Path(place).is_dir()
    if named_here:
        path = path / name_journal(url, source)
    opening = Opening(url, dict(fields), source.fingerprint, key or make_key())
    descriptor = open_locked(path, opening)
    try:
        if named_here:
            remove_unfinished(path)
        journal = read_journal(path, descriptor)
        if journal is None or restart or is_another(journal.opening, opening):
            journal = Journal(opening, path=path, descriptor=descriptor)
            journal.begin_anew()
        if journal.opening.fingerprint != opening.fingerprint:
            raise SourceChanged(
                f"{source.name} was changed since its upload began: start that anew (restart), or remove {path}",
                path,
            )
    except BaseException:
        os.close(descriptor)
        raise
    return journal


def name_journal(url: str, source: Source) -> str:
    """One for each server and path. Raises ValueError for what has no path."""
    if source.path is None:
        raise ValueError(
            "resume: only a path can have its state in a folder; name a file for the state of this source"
        )
    return (
        hashlib.sha256(f"{url}\0{source.path}".encode(errors="surrogateescape")).hexdigest()[:40]
        + ENDING
    )


def open_locked(path: Path, opening: Opening) -> int:
    """What is there, or a new one that is whole from its first moment on. Raises InProgress, TargetFailed."""
    while True:
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_APPEND | getattr(os, "O_NOFOLLOW", 0))
        except FileNotFoundError:
            create(path, opening)
            continue
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


def create(path: Path, opening: Opening) -> None:
    """Atomically: a temporary file, on the disk, then its name, if nobody else has taken that. Raises TargetFailed."""
    fresh = path.with_name(f"{path.name}.{secrets.token_hex(4)}")
    try:
        descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, PRIVATE)
        try:
            os.write(descriptor, msgspec.json.encode(opening) + b"\n")
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        with contextlib.suppress(
            FileExistsError, FileNotFoundError
        ):  # another process was first, and may have removed this one
            os.link(fresh, path)
    except OSError as error:
        raise TargetFailed(f"{path}: {error.strerror}") from error
    finally:
        fresh.unlink(missing_ok=True)


def remove_unfinished(path: Path) -> None:
    """Remove what processes that were killed in `create` have left beside a journal of a name that `name_journal` made."""
    for fresh in path.parent.glob(f"{path.name}.{'[0-9a-f]' * 8}"):
        fresh.unlink(missing_ok=True)


def read_journal(path: Path, descriptor: int) -> Journal | None:
    """None when it is empty. Raises ValueError when it is something else, which is not ours to overwrite."""
    journal, content = None, path.read_bytes()
    for line in content.split(b"\n"):
        try:
            found = read_line(line)
        except msgspec.DecodeError:
            continue  # cut by a crash
        if isinstance(found, Opening):
            journal = Journal(found, path=path, descriptor=descriptor)
        elif journal is not None and isinstance(found, DeclaredAs):
            journal.file = found.file
        elif journal is not None and isinstance(found, SentPart):
            journal.parts[found.number] = found.sha256
    if journal is None and content.strip():
        raise ValueError(f"{path} is not the state of an upload")
    if content and not content.endswith(b"\n"):
        os.write(descriptor, b"\n")  # what was cut must not spoil what follows
    return journal


def is_another(found: Opening, opening: Opening) -> bool:
    """Another server, or another declaration: the size is the source's own, and a changed source is no other upload."""
    fields, wanted = (
        {name: value for name, value in each.fields.items() if name != "size"}
        for each in (found, opening)
    )
    return found.url != opening.url or fields != wanted


def make_key() -> str:
    return secrets.token_hex(16)
