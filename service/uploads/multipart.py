"""A multipart upload: begin it at the store, sign a URL a part, say which parts have come.

The parts are put together by service/uploads/assembly.py. A part's URL binds its number, the upload, its exact size, the absence of a
source to copy from and, if the client names it, its SHA-256. A part that is sent again replaces the one before.

1. Read the row. Gone: 410. It comes in one PUT: 409. Not pending: 409, and an arrival. Its time is over: 410.
2. The row names the store's upload: sign (4). Else ask the store to begin one.
   - an error, no answer: 503. An upload whose id nobody heard gets no parts, and the store drops it.
3. Name it in the row, only where none is named and the file is not final.
   - no row: another request was first, or the file is final: abort our own, then read again (1).
   - an error, a lost answer: they prove nothing, the row may name it: it is left as it is; 503.
4. Sign, for the upload that the row names, from the database's time on. Nobody is asked.

To list, the store is asked for the parts of the upload that the row names; no upload, no parts. The store has no such upload: look at
the key, then read the row again. The object is there or the file is final: 409, and an arrival. Else what was sent is gone: 409.
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
    """A part that is to be sent; with `sha256` the store refuses any other bytes."""

    number: int
    sha256: Sha256 | None


class SignedPart(msgspec.Struct, frozen=True, kw_only=True):
    """How to send one part: exactly these headers and exactly `size` bytes, unchunked, to `url`, begun before `expires_at`."""

    number: int
    size: int
    method: str
    url: str
    headers: dict[str, str]
    expires_at: datetime


async def sign_parts(
    resources: Resources, file_id: UUID, requests: Sequence[PartRequest], *, owner: str | None
) -> list[SignedPart]:
    """A URL for each part. Raises NotFound, FileGone, NotMultipart, AlreadyUploaded, InvalidRequest, StoreError."""
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
    """A file that waits for its parts. Raises NotFound, FileGone, NotMultipart, AlreadyUploaded."""
    file = await lookup.find_file(resources, file_id, owner=owner)
    if file.state in GONE:
        raise lookup.gone(file)
    if file.parts is None:
        raise problems.NotMultipart(
            "the file comes in one PUT: ask POST /files/{id}/upload for its URL"
        )
    if not isinstance(file, UnprovedFile) or file.state != State.PENDING:
        raise await arrivals.refuse_more(resources, file)
    return file, file.parts


def check_numbers(parts: Parts, requests: Sequence[PartRequest]) -> None:
    """Raises InvalidRequest."""
    seen: set[int] = set()
    for index, request in enumerate(requests):
        if not 1 <= request.number <= parts.count:
            raise problems.InvalidRequest.at(
                f"parts[{index}].number",
                f"there is no part {request.number}: expected 1 to {parts.count}",
            )
        if request.number in seen:
            raise problems.InvalidRequest.at(
                f"parts[{index}].number", f"part {request.number} is named twice: name it once"
            )
        seen.add(request.number)


async def begin_upload(resources: Resources, file: UnprovedFile) -> str:
    """Return the id of the store's upload that the file's row names: steps 2 and 3. Raises StoreError, AlreadyUploaded, FileGone."""
    while file.upload_id is None:
        key = file.incoming_key
        upload_id = await resources.incoming.create_upload(
            key, content_type=file.served_content_type, metadata={}, tags={}
        )
        if not await assemblies.name_upload(resources.pool, file.id, upload_id):
            with contextlib.suppress(StoreError):  # it has no parts: the store drops it
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
    """What the store has. Raises NotFound, FileGone, NotMultipart, AlreadyUploaded, UploadLost, StoreError."""
    file, _ = await find_multipart(resources, file_id, owner=owner)
    if file.upload_id is None:
        return []
    try:
        return await resources.incoming.list_parts(file.incoming_key, file.upload_id)
    except UploadMissing:
        raise await explain_missing(resources, file) from None


async def explain_missing(resources: Resources, file: UnprovedFile) -> problems.Problem:
    """The store has no such upload: assembled, or lost."""
    if await arrivals.is_uploaded(resources, file):
        return await arrivals.refuse_more(resources, file)
    again = await lookup.find_file(resources, file.id, owner=None)
    return (
        lost() if isinstance(again, UnprovedFile) else await arrivals.refuse_more(resources, again)
    )


def lost() -> problems.UploadLost:
    return problems.UploadLost(
        "the store has dropped the parts and has no object: declare the file anew and send it again"
    )
