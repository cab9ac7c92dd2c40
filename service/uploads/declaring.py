"""Declarations: insert the row of a file, and return how to send its bytes.

1. Insert the row, then sign. No URL exists before its row. If the process dies in between, the row
   expires.
2. A file in one PUT gets its URL here (service/uploads/signing.py). A file in parts gets none:
   service/uploads/multipart.py signs a URL for each part.
3. A repeated request with the same `Idempotency-Key` gets the same file, and a fresh URL while the
   file is pending.
"""

import asyncio
import secrets
from datetime import timedelta
from typing import Final
from uuid import UUID

import msgspec

from service import problems
from service.files.lookup import find_file, gone
from service.model import (
    GONE,
    LARGEST_OBJECT_BYTES,
    LARGEST_PUT_BYTES,
    MIB,
    Declaration,
    File,
    Parts,
    Sha256,
    State,
    UnprovedFile,
    cut,
    make_id,
)
from service.queries import files, idempotency
from service.queries.rows import Database
from service.resources import Resources
from service.uploads.arrivals import is_uploaded, refuse_more
from service.uploads.signing import (
    MultipartUpload,
    Upload,
    check_time,
    offer_upload,
    sign_length_alone,
)

SLOWEST_PUT_BYTES_PER_SECOND: Final = 64 * 1024
"""The rate that limits the grace period.

A PUT may continue after its URL has expired. A slower PUT may still be running when the file
expires.
"""
PART_BYTES: Final = 16 * MIB
"""The part size of a file of up to 156 GiB.

It is small enough to be sent again after a broken connection, and to be hashed in a browser's
memory.
"""


class Declared(msgspec.Struct, frozen=True):
    """A declared file and how to send its bytes.

    `upload` is None if the file no longer waits for its bytes. `replayed` is True if an earlier
    request declared the file.
    """

    file: File
    upload: Upload | MultipartUpload | None
    replayed: bool = False


async def declare_file(resources: Resources, declaration: Declaration) -> Declared:
    """Insert the row, and return it with an upload. Raises FileTooLarge."""
    file = await insert_new(resources, declaration)
    return Declared(file, offer_upload(resources, file, now=file.created_at))


async def declare_redirect(
    resources: Resources, declaration: Declaration
) -> tuple[UnprovedFile, Upload]:
    """Declare a file for a client that is redirected to the store.

    The URL does not bind a content type, `If-None-Match` or a digest. Raises FileTooLarge.
    """
    file = await insert_new(resources, declaration)
    return file, sign_length_alone(resources, file, now=file.created_at)


async def insert_new(resources: Resources, declaration: Declaration) -> UnprovedFile:
    check_size(resources, declaration)
    file = await insert_file(resources, declaration, make_id(), database=resources.pool)
    resources.notifications.notify_history()
    return file


async def declare_file_once(
    resources: Resources, declaration: Declaration, *, key: str, request: Sha256
) -> Declared:
    """Declare a file for a request that may be a retry, and return the same file for a retry.

    `key` is the request's `Idempotency-Key`, and `request` is the digest of its decoded body.
    Raises FileTooLarge and IdempotencyMismatch.
    """
    check_size(resources, declaration)
    file_id = make_id()
    async with resources.pool.acquire() as connection, connection.transaction():
        remembered = await idempotency.remember_request(
            connection, declaration.owner, key, request=request, file_id=file_id
        )
        if remembered is None:
            file = await insert_file(resources, declaration, file_id, database=connection)
    if remembered is None:
        resources.notifications.notify_history()
        return Declared(file, offer_upload(resources, file, now=file.created_at))
    if remembered.request_sha256 != request:
        raise problems.IdempotencyMismatch(
            "this Idempotency-Key was used with another body before: use a new key for a new file"
        )
    return await replay_declaration(resources, remembered.file_id)


async def replay_declaration(resources: Resources, file_id: UUID) -> Declared:
    file, now = await asyncio.gather(
        find_file(resources, file_id, owner=None), files.ask_time(resources.pool)
    )
    if isinstance(file, UnprovedFile) and file.state == State.PENDING and now < file.expires_at:
        return Declared(file, offer_upload(resources, file, now=now), replayed=True)
    return Declared(file, None, replayed=True)


def check_size(resources: Resources, declaration: Declaration) -> None:
    parts = choose_parts(resources, declaration)
    largest, way = (
        (LARGEST_PUT_BYTES, "one PUT") if parts is None else (LARGEST_OBJECT_BYTES, "one file")
    )
    most = min(resources.settings.max_file_bytes, largest)
    if declaration.size > most:
        raise problems.FileTooLarge.at(
            "size",
            f"{declaration.size} bytes exceed the limit of {most} bytes for {way}",
            limit=most,
        )


def choose_parts(resources: Resources, declaration: Declaration) -> Parts | None:
    """Return how the file is divided into parts, or None if it is sent by one PUT."""
    wanted = declaration.multipart
    multipart = declaration.size > resources.settings.multipart_above if wanted is None else wanted
    return cut(declaration.size, usual_part_size=PART_BYTES) if multipart else None


async def insert_file(
    resources: Resources, declaration: Declaration, file_id: UUID, *, database: Database
) -> UnprovedFile:
    settings, parts = resources.settings, choose_parts(resources, declaration)
    largest_put = declaration.size if parts is None else min(declaration.size, parts.part_size)
    return await files.declare_file(
        database,
        declaration,
        file_id=file_id,
        # Not derived from the id: on an old MinIO, knowing a key is enough to write to it.
        incoming_key=secrets.token_hex(16),
        part_size=None if parts is None else parts.part_size,
        upload_ttl=settings.upload_ttl,
        grace=settings.upload_grace + timedelta(seconds=largest_put / SLOWEST_PUT_BYTES_PER_SECOND),
    )


async def renew_upload(resources: Resources, file: File) -> Declared:
    """Return the file with a fresh upload for the same key.

    Raises FileGone. Raises AlreadyUploaded after recording an arrival, if the object exists.
    """
    if file.state in GONE:
        raise gone(file)
    if (
        not isinstance(file, UnprovedFile)
        or file.state != State.PENDING
        or await is_uploaded(resources, file)
    ):
        raise await refuse_more(resources, file)
    return Declared(file, offer_upload(resources, file, now=await check_time(resources, file)))
