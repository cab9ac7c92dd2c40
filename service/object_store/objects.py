"""What the store says of objects and of the parts of uploads. ETags have no quotes."""

from collections.abc import Mapping
from datetime import datetime
from email.utils import parsedate_to_datetime

import msgspec


class StoredObject(msgspec.Struct, frozen=True):
    """What the store says of an object. `metadata` has lower-case names without `x-amz-meta-`, of Assay's own fields alone.

    An ETag has no quotes. `last_modified` is None for a date that cannot be parsed: an old store lets a client write it.
    """

    key: str
    size: int
    etag: str
    content_type: str
    last_modified: datetime | None
    metadata: dict[str, str]


class StoredCopy(msgspec.Struct, frozen=True):
    key: str
    etag: str


class StoredPart(msgspec.Struct, frozen=True):
    number: int
    size: int
    etag: str


class ListedObject(msgspec.Struct, frozen=True):
    key: str
    size: int
    etag: str
    last_modified: datetime


def read_object(key: str, headers: Mapping[str, str]) -> StoredObject:
    """Return what the head of an answer says of an object. Raises KeyError or ValueError if it is no such head."""
    prefix = "x-amz-meta-"
    return StoredObject(
        key=key,
        size=int(headers["content-length"]),
        etag=strip_quotes(headers["etag"]),
        content_type=headers.get("content-type", ""),
        last_modified=read_http_date(headers.get("last-modified", "")),
        metadata={
            name.removeprefix(prefix): value
            for name, value in headers.items()
            if name.startswith(prefix)
        },
    )


def strip_quotes(etag: str) -> str:
    """Return an ETag as requests name it."""
    return etag.removeprefix('"').removesuffix('"')


def read_http_date(header: str) -> datetime | None:
    """Return the time of a header field, or None if it cannot be parsed."""
    try:
        return parsedate_to_datetime(header)
    except ValueError:
        return None
