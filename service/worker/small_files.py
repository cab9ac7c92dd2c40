"""The proof of a small file: one read, one write, and no copy by the store.

1. GET the incoming object. The head of the response gives its size and type.
   - There is no object, it is permanently unreadable, or any other error: as for a HEAD request
     (service/worker/verification.py, step 1).
   - The size differs from the declared one: the file is verified as a large one is. Nothing was
     written.
2. Hash the bytes in memory, and compare the type and the digest that the claim knows.
   - The type differs: reject. Nothing was written.
   - The digest differs: read once more, because one read may have been wrong. If the digest is the
     same again, reject. Otherwise: failure before writing.
   - The body has another length than the head said: failure before writing. The store is at fault.
3. PUT the bytes under the reserved key, once, within the first lease period. The request is signed
   with the digest of the body, so that the store stores exactly these bytes or nothing.
   - It is too late to send the request, or the store refuses it: failure before writing.
   - Any other error: failure after writing, because the request may take effect later.
4. The commit is the same as for a large file. It compares again with a digest that `complete` may
   have brought meanwhile.

"Proved" therefore means here that the store has checked the digest of bytes that Assay itself sent
under a key that no other identity can write. No step reads the vault object back.
"""

import asyncio
import hashlib
from typing import Final, NamedTuple
from uuid import UUID

from service.model import Claim, Rejection, RejectionReason, Sha256, UnprovedFile, Work
from service.object_store import (
    RequestRefused,
    SentTooLate,
    StoredObject,
    StoreError,
    StoreUnavailable,
)
from service.resources import WorkerResources
from service.worker.copying import describe_object
from service.worker.proofs import NotVerified, Proof, compare

SMALL_BYTES: Final = 1024 * 1024
READ_SECONDS: Final = 10.0
WRITE_SECONDS: Final = 15.0
HASHED_AT_ONCE_BYTES: Final = 64 * 1024
"""A larger body is hashed in a thread."""


class SmallBody(NamedTuple):
    """The bytes of an incoming object that differ in nothing from the declaration."""

    content: bytes
    sha256: Sha256


def is_small(size: int) -> bool:
    return size <= SMALL_BYTES


def takes_memory(claim: Claim) -> bool:
    """Return whether the claim is proved in memory. A look sends only a HEAD request."""
    return claim.work != Work.LOOK and is_small(claim.size)


async def prove_small_file(
    resources: WorkerResources, claim: Claim, *, send_before: float
) -> Proof | Rejection | None:
    """Run steps 1 to 3 of the protocol above.

    Return None if the object has not the declared size. Raises ObjectMissing, ObjectUnreadable and
    NotVerified.
    """
    found = await read_small_file(resources, claim)
    if not isinstance(found, SmallBody):
        return found
    etag = await write_small_file(
        resources, claim, found, vault_key=claim.vault_key, send_before=send_before
    )
    return Proof(len(found.content), found.sha256, etag)


async def read_small_file(
    resources: WorkerResources, file: Claim | UnprovedFile
) -> SmallBody | Rejection | None:
    """Run steps 1 and 2 of the protocol above.

    Return None if the object has not the declared size. Raises NotVerified and StoreError.
    """
    seen, content = await read(resources, file)
    if content is None or seen.size != file.size:
        return None
    if (mismatch := compare(file, seen)) is not None:
        return mismatch
    sha256 = await digest_body(content)
    if file.declared_sha256 not in (None, sha256):
        return await confirm_difference(resources, file, sha256)
    return SmallBody(content, sha256)


async def read(
    resources: WorkerResources, file: Claim | UnprovedFile
) -> tuple[StoredObject, bytes | None]:
    return await resources.incoming.get(
        file.incoming_key, most_bytes=SMALL_BYTES, timeout_seconds=READ_SECONDS
    )


async def digest_body(body: bytes) -> Sha256:
    if len(body) <= HASHED_AT_ONCE_BYTES:
        return Sha256(hashlib.sha256(body).digest())
    return await asyncio.to_thread(lambda: Sha256(hashlib.sha256(body).digest()))


async def confirm_difference(
    resources: WorkerResources, file: Claim | UnprovedFile, sha256: Sha256
) -> Rejection:
    """Read the object once more, and return the rejection. Raises NotVerified if it differs now."""
    _, body = await read(resources, file)
    if body is None or await digest_body(body) != sha256:
        error = StoreUnavailable("two reads of the object gave different bytes")
        raise NotVerified(error, written=False)
    return Rejection(
        RejectionReason.DIGEST_MISMATCH, f"declared {file.declared_sha256}, received {sha256}"
    )


async def write_small_file(
    resources: WorkerResources,
    file: Claim | UnprovedFile,
    body: SmallBody,
    *,
    vault_key: UUID,
    send_before: float,
) -> str:
    """Run step 3 of the protocol above, and return the ETag. Raises NotVerified."""
    try:
        return await resources.vault.put(
            str(vault_key),
            body.content,
            sha256=str(body.sha256),
            send_before=send_before,
            timeout_seconds=WRITE_SECONDS,
            **describe_object(
                file.id,
                file.owner,
                file.filename,
                content_type=file.content_type,
                declared=file.declared_sha256,
            ),
        )
    except StoreError as error:
        refused = isinstance(error, (SentTooLate, RequestRefused))
        raise NotVerified(error, written=not refused) from error
