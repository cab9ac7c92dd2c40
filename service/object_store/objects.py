"""Descriptions of objects and of parts, as the store returns them. ETags have no quotes."""

from collections.abc import Mapping
from datetime import datetime
from email.utils import parsedate_to_datetime

import msgspec


class StoredObject(msgspec.Struct, frozen=True):
    """An object as a HEAD or GET request describes it.

    `metadata` contains only Assay's own fields, with names in lower case and without `x-amz-meta-`.
    `last_modified` is None if the date cannot be parsed, because an old store lets a client write
    it.
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
    """Return the object that the head of a response describes.

    Raises KeyError or ValueError if a field is missing or malformed.
    """
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
    return etag.removeprefix('"').removesuffix('"')


def read_http_date(header: str) -> datetime | None:
    try:
        return parsedate_to_datetime(header)
    except ValueError:
        return None
