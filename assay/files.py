"""The metadata of a file, as the API returns it.

Unknown fields are ignored, because later versions of the API may add some.
"""

from datetime import datetime
from typing import Final
from uuid import UUID

import msgspec

UNPROVED: Final = frozenset({"pending", "verifying"})
GONE: Final = frozenset({"expired", "deleted"})


class Rejection(msgspec.Struct, frozen=True):
    """The reason why a file was rejected: `reason` is for programs, `detail` for people."""

    reason: str
    detail: str


class File(msgspec.Struct, frozen=True, kw_only=True):
    """The metadata of a file.

    `state` is one of pending, verifying, ready, rejected, expired, deleted and damaged.
    `hash`, `upload_date` and `minio_object_name` are None until the file is proved.
    Sizes are in bytes, times are timezone-aware and in UTC, and digests are hexadecimal.
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
    """A link that gives access to one file without a key, until `expires_at`."""

    url: str
    expires_at: datetime


FileId = UUID | str | File
"""The types that identify a file in a call."""


def read_id(file: FileId) -> UUID:
    """Return the id of the named file. Raises ValueError if the text is not a UUID."""
    if isinstance(file, File):
        return file.id
    return file if isinstance(file, UUID) else UUID(file)
