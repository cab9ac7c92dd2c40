"""What the API says of a file. Fields that are unknown here are ignored: the API only ever adds some."""

from datetime import datetime
from typing import Final
from uuid import UUID

import msgspec

UNPROVED: Final = frozenset({"pending", "verifying"})
GONE: Final = frozenset({"expired", "deleted"})


class Rejection(msgspec.Struct, frozen=True):
    """Why a file was rejected: `reason` for programs, `detail` for people."""

    reason: str
    detail: str


class File(msgspec.Struct, frozen=True, kw_only=True):
    """A file as the API knows it. `hash`, `upload_date` and `minio_object_name` are None until its bytes are proved.

    `state` is one of pending, verifying, ready, rejected, expired, deleted, damaged. Sizes are bytes, times aware UTC, digests hexadecimal.
    """

    id: UUID
    filename: str
    size: int
    content_type: str
    state: str
    created_at: datetime
    expires_at: datetime
    hash: str | None = None
    upload_date: datetime | None = None
    minio_object_name: UUID | None = None
    declared_sha256: str | None = None
    metadata: dict[str, str] = {}
    rejection: Rejection | None = None


class Link(msgspec.Struct, frozen=True):
    """Whoever has `url` can read the file until `expires_at`, without a key."""

    url: str
    expires_at: datetime


FileId = UUID | str | File
"""Whatever names a file."""


def read_id(file: FileId) -> UUID:
    """Raises ValueError for what names no file."""
    if isinstance(file, File):
        return file.id
    return file if isinstance(file, UUID) else UUID(file)
