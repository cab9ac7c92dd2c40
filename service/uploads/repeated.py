"""Streamed uploads with an `Idempotency-Key`: a repeated request stores no second file.

1. Look for the key.
2. No request with this key has committed: upload the file (service/uploads/streamed.py). Its commit
   inserts the key with the file.
   - Another request with the key has committed meanwhile: the commit inserts nothing, and the
     object is removed as after any other commit without a row. Continue with step 4.
3. An earlier request has committed: read the body, compare it with its stated digests, and store
   nothing.
4. Compare the declarations and the bytes of the two requests. If they are the same, return the
   earlier request's file in its current state. Otherwise refuse the request.

A declaration (`POST /files`) with the same key counts as another request, so the upload is refused.
"""

from collections.abc import AsyncIterator

import msgspec

from service import problems
from service.files.lookup import find_file
from service.model import File, Sha256
from service.queries import idempotency
from service.queries.idempotency import Remembered
from service.resources import Resources
from service.uploads.buffers import Loan
from service.uploads.streamed import KeyUsed, UploadHeaders, check_size, upload_stream


class Uploaded(msgspec.Struct, frozen=True):
    """An uploaded file. `replayed` is True if an earlier request uploaded it."""

    file: File
    replayed: bool = False


async def upload_once(
    resources: Resources, loan: Loan, headers: UploadHeaders, body: AsyncIterator[bytes]
) -> Uploaded:
    """Run the protocol above. Without a key, upload the file.

    Raises IdempotencyMismatch, and the exceptions of `upload_stream`.
    """
    if headers.idempotency_key is not None:
        earlier = await idempotency.recall_request(
            resources.pool, headers.owner, headers.idempotency_key
        )
        if earlier is not None:
            return await replay(resources, earlier, await read_again(resources, headers, body))
    try:
        return Uploaded(await upload_stream(resources, loan, headers, body))
    except KeyUsed as used:
        return await replay(resources, used.earlier, used.request_sha256)


async def read_again(
    resources: Resources, headers: UploadHeaders, body: AsyncIterator[bytes]
) -> Sha256:
    """Run step 3 of the protocol above, and return the digest of the request."""
    digests, size = headers.start_digests(), 0
    async for piece in body:
        size += len(piece)
        check_size(resources, size)
        digests.update(piece)
    digests.compare(headers.digests, subject="file")
    return headers.digest_request(size, digests.sha256)


async def replay(resources: Resources, earlier: Remembered, request_sha256: Sha256) -> Uploaded:
    """Run step 4 of the protocol above."""
    if earlier.request_sha256 != request_sha256:
        raise problems.IdempotencyMismatch(
            "this Idempotency-Key was used for another request before: use a new key for a new file"
        )
    return Uploaded(await find_file(resources, earlier.file_id, owner=None), replayed=True)
