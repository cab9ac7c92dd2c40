"""Multipart uploads: begin one at the store, sign a URL for each part, and list the stored parts.

The parts are assembled by service/uploads/assembly.py. The URL of a part binds the part's number,
the multipart upload, the exact size, the absence of a source to copy from and, if the client names
it, the SHA-256. A part that is sent again replaces the earlier one.

1. Read the row.
   - The file is gone: 410.
   - The file is sent by one PUT: 409.
   - The file is not `pending`: record an arrival, 409.
   - The file is past its `expires_at`: 410.
2. If the row names a multipart upload, continue with step 4. Otherwise request a new one from the
   store.
   - An error, or no response: 503. If the store has begun an upload, its id is lost. It gets no
     parts, and the store removes it after some time.
3. Record the upload's id in the row, provided that the row names no upload and the file is not
   final.
   - No row was updated, because another request was first or the file is final: abort the new
     upload, and go back to step 1.
   - The statement failed, or its response was lost: the row may name the upload. Leave the upload
     as it is, 503.
4. Sign the URLs for the upload that the row names, from the database's time on. This needs no
   request to the store.

To list the parts, request them for the upload that the row names. If it names none, there are no
parts.

   - The store has no such upload: check the incoming key with a HEAD request, and then read the row
     again. If there is an object, or the file is final: record an arrival, 409. Otherwise the sent
     parts are lost: 409.
"""

import contextlib
from collections.abc import Sequence
from datetime import datetime
from uuid import UUID

import msgspec

from service import problems
from service.files import lookup
from service.model import GONE, Parts, Sha256, State, UnprovedFile
from service.object_store import StoredPart, StoreError, UploadMissing
from service.queries import assemblies
from service.resources import Resources
from service.uploads import arrivals, signing


class PartRequest(msgspec.Struct, frozen=True):
    """A part for which a URL is requested. With `sha256`, the store refuses any other bytes."""

    number: int
    sha256: Sha256 | None


class SignedPart(msgspec.Struct, frozen=True, kw_only=True):
    """The request that sends one part.

    It has exactly these headers and exactly `size` bytes, unchunked. It must begin before
    `expires_at`.
    """

    number: int
    size: int
    method: str
    url: str
    headers: dict[str, str]
    expires_at: datetime


async def sign_parts(
    resources: Resources, file_id: UUID, requests: Sequence[PartRequest], *, owner: str | None
) -> list[SignedPart]:
    """Run the protocol above, and return a URL for each requested part.

    Raises NotFound, FileGone, NotMultipart, AlreadyUploaded, InvalidRequest and StoreError.
    """
    file, parts = await find_multipart(resources, file_id, owner=owner)
    check_numbers(parts, requests)
    now = await signing.check_time(resources, file)
    upload_id = await begin_upload(resources, file)
    return [
        sign_part(resources, file, parts, request, upload_id=upload_id, now=now)
        for request in requests
    ]


async def find_multipart(
    resources: Resources, file_id: UUID, *, owner: str | None
) -> tuple[UnprovedFile, Parts]:
    """Return a pending file and its division into parts.

    Raises NotFound, FileGone, NotMultipart and AlreadyUploaded.
    """
    file = await lookup.find_file(resources, file_id, owner=owner)
    if file.state in GONE:
        raise lookup.gone(file)
    if file.parts is None:
        raise problems.NotMultipart(
            "the file is sent by one PUT: request its URL with POST /files/{id}/upload"
        )
    if not isinstance(file, UnprovedFile) or file.state != State.PENDING:
        raise await arrivals.refuse_more(resources, file)
    return file, file.parts


def check_numbers(parts: Parts, requests: Sequence[PartRequest]) -> None:
    seen: set[int] = set()
    for index, request in enumerate(requests):
        if not 1 <= request.number <= parts.count:
            raise problems.InvalidRequest.at(
                f"parts[{index}].number",
                f"there is no part {request.number}: expected 1 to {parts.count}",
            )
        if request.number in seen:
            raise problems.InvalidRequest.at(
                f"parts[{index}].number", f"part {request.number} is listed twice: list it once"
            )
        seen.add(request.number)


async def begin_upload(resources: Resources, file: UnprovedFile) -> str:
    """Run steps 2 and 3 of the protocol above, and return the id of the store's upload.

    Raises StoreError, AlreadyUploaded and FileGone.
    """
    while file.upload_id is None:
        key = file.incoming_key
        upload_id = await resources.incoming.create_upload(
            key, content_type=file.served_content_type, metadata={}, tags={}
        )
        if not await assemblies.name_upload(resources.pool, file.id, upload_id):
            with contextlib.suppress(StoreError):  # without parts, the store removes it
                await resources.incoming.abort_upload(key, upload_id)
        file, _ = await find_multipart(resources, file.id, owner=None)
    return file.upload_id


def sign_part(
    resources: Resources,
    file: UnprovedFile,
    parts: Parts,
    request: PartRequest,
    *,
    upload_id: str,
    now: datetime,
) -> SignedPart:
    issued_at, expires_at = signing.choose_validity(resources, file, now=now)
    size = parts.size_of(request.number)
    put = resources.signer.presign_put(
        resources.settings.incoming_bucket,
        file.incoming_key,
        size=size,
        content_type=None,
        sha256=str(request.sha256) if request.sha256 else None,
        if_none_match=False,
        issued_at=issued_at,
        expires_in_seconds=signing.count_seconds(issued_at, expires_at),
        query={"partNumber": str(request.number), "uploadId": upload_id},
    )
    return SignedPart(
        number=request.number,
        size=size,
        method="PUT",
        url=put.url,
        headers=put.headers,
        expires_at=expires_at,
    )


async def list_parts(resources: Resources, file_id: UUID, *, owner: str | None) -> list[StoredPart]:
    """Return the parts that the store has.

    Raises NotFound, FileGone, NotMultipart, AlreadyUploaded, UploadLost and StoreError.
    """
    file, _ = await find_multipart(resources, file_id, owner=owner)
    if file.upload_id is None:
        return []
    try:
        return await resources.incoming.list_parts(file.incoming_key, file.upload_id)
    except UploadMissing:
        raise await explain_missing(resources, file) from None


async def explain_missing(resources: Resources, file: UnprovedFile) -> problems.Problem:
    """Return the problem for an upload that the store does not have.

    The parts were assembled, or they are lost.
    """
    if await arrivals.is_uploaded(resources, file):
        return await arrivals.refuse_more(resources, file)
    again = await lookup.find_file(resources, file.id, owner=None)
    return (
        lost() if isinstance(again, UnprovedFile) else await arrivals.refuse_more(resources, again)
    )


def lost() -> problems.UploadLost:
    return problems.UploadLost(
        "the store has no parts and no object of this file: declare the file again and send it"
    )
