"""Upload URLs: how the bytes of a declared file may be sent.

A URL binds the method, the key, the exact length, the content type, `If-None-Match: *`, the
declared SHA-256, and the absence of the headers in `ABSENT_FROM_PUT`
(service/object_store/presign.py). For a redirect, it binds only the method, the key, the length and
the absence of those headers. A URL never expires later than the file.
"""

from datetime import datetime

import msgspec

from service import problems
from service.model import (
    File,
    UnprovedFile,
)
from service.queries import files
from service.resources import Resources


class Upload(msgspec.Struct, frozen=True):
    """The request that sends the bytes.

    It has exactly these headers and exactly `size` bytes, unchunked. It must begin before
    `expires_at`.
    """

    method: str
    url: str
    headers: dict[str, str]
    expires_at: datetime


class PartCount(msgspec.Struct, frozen=True):
    """The number of parts. Each has `part_size` bytes, except the last one, which has the rest."""

    part_size: int
    parts: int


class MultipartUpload(msgspec.Struct, frozen=True):
    """An upload in parts, which must end before `expires_at`.

    The client requests a URL for each part from `POST /files/{id}/parts`, sends the parts, and then
    calls `complete`.
    """

    multipart: PartCount
    expires_at: datetime


def offer_upload(
    resources: Resources, file: UnprovedFile, *, now: datetime
) -> Upload | MultipartUpload:
    """Return how the file's bytes may be sent. `now` is the database's time."""
    if file.parts is None:
        return sign_upload(resources, file, now=now)
    return MultipartUpload(PartCount(file.parts.part_size, file.parts.count), file.expires_at)


def sign_upload(resources: Resources, file: UnprovedFile, *, now: datetime) -> Upload:
    return sign_put(resources, file, now=now, bound=True)


def sign_length_alone(resources: Resources, file: UnprovedFile, *, now: datetime) -> Upload:
    """Sign one PUT for a redirected client, such as `curl -T`, which sends headers of its own.

    The URL nevertheless binds the absence of the harmful headers.
    """
    return sign_put(resources, file, now=now, bound=False)


def sign_put(resources: Resources, file: UnprovedFile, *, now: datetime, bound: bool) -> Upload:
    issued_at, expires_at = choose_validity(resources, file, now=now)
    put = resources.signer.presign_put(
        resources.settings.incoming_bucket,
        file.incoming_key,
        size=file.size,
        content_type=file.content_type if bound else None,
        sha256=str(file.declared_sha256) if bound and file.declared_sha256 else None,
        if_none_match=bound,
        issued_at=issued_at,
        expires_in_seconds=count_seconds(issued_at, expires_at),
    )
    return Upload("PUT", put.url, put.headers, expires_at)


def choose_validity(
    resources: Resources, file: File, *, now: datetime
) -> tuple[datetime, datetime]:
    """Return the times of issue and expiry of a URL for this file, in whole seconds."""
    issued_at = now.replace(microsecond=0)
    return issued_at, min(
        issued_at + resources.settings.upload_url_ttl, file.expires_at.replace(microsecond=0)
    )


def count_seconds(issued_at: datetime, expires_at: datetime) -> int:
    return max(1, int((expires_at - issued_at).total_seconds()))


async def check_time(resources: Resources, file: File) -> datetime:
    """Return the database's time. Raises FileGone if the file is past its `expires_at`."""
    now = await files.ask_time(resources.pool)
    if now >= file.expires_at:
        raise problems.FileGone(
            f"this upload expired at {file.expires_at.isoformat()}: declare the file again"
        )
    return now
