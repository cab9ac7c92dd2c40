"""The copy of an object from incoming to the vault, under a reserved key.

An object of at most 5 GiB is copied by one request. The request carries the ETag that was seen, if
a condition can name it. It is sent before the first lease period is over, because nothing else
fences it.

A larger object is copied in parts:

1. Begin a multipart upload at the claim's vault key, and record its id in the reservation before
   the first part is sent.
   - The reservation is doomed: abort the upload. The lease is lost.
2. Copy the parts, several at once, each with the ETag that was seen. Once the lease is lost, no
   further part is requested.
   - The store definitely refuses a part (the object changed, is missing, or cannot be read), and
     every other request was answered: certain refusal.
   - Any other error: uncertain failure.
3. Have the store assemble the parts, once.
   - The store definitely refuses: certain refusal.
   - Any other error: uncertain failure.

Certain refusal: abort the upload. If the abort is answered, nothing is stored under the key and
nothing will be, as after a refusal of the single request. Otherwise: uncertain failure.

Uncertain failure: a request may still take effect, so the caller must doom the reservation.

Late requests are fenced by the abort. The sweeper aborts the upload that a doomed reservation
names, and does so again after COPY_GRACE.

See docs/architecture.md, "5. Verify".
"""

import asyncio
import threading
from typing import Any, Final
from urllib.parse import quote
from uuid import UUID

from service.model import LARGEST_PUT_BYTES, MIB, Claim, Parts, Sha256, cut
from service.object_store import (
    ObjectChanged,
    ObjectMissing,
    ObjectUnreadable,
    RequestRefused,
    StoredObject,
    StoredPart,
    StoreError,
    is_condition,
)
from service.queries import reservations
from service.resources import WorkerResources

SLOWEST_COPY_BYTES_PER_SECOND: Final = 16 * MIB
ANSWER_SECONDS: Final = 30.0
PART_BYTES: Final = 512 * MIB
PARTS_AT_ONCE: Final = 4
ASSEMBLE_SECONDS: Final = 60.0
PARTS_A_SECOND: Final = 50
CERTAIN: Final = (ObjectChanged, ObjectMissing, ObjectUnreadable, RequestRefused)
"""Errors that show that the store did not begin a copy."""


class LeaseLost(Exception):
    """The loss of a claim: another process holds the file, or the file is final."""


def describe_object(
    file_id: UUID, owner: str, filename: str, *, content_type: str | None, declared: Sha256 | None
) -> dict[str, Any]:
    """Return the content type, metadata and tags of a vault object, with percent-encoded names.

    They are enough to adopt the object if the database is lost.
    """
    metadata = {
        "assay-file-id": str(file_id),
        "assay-owner": quote(owner, safe=""),
        "assay-filename": quote(filename, safe=""),
    }
    if declared is not None:
        metadata["assay-declared-sha256"] = str(declared)
    return {
        "content_type": content_type or "application/octet-stream",
        "metadata": metadata,
        "tags": {"assay-file-id": str(file_id)},
    }


async def copy_object(
    resources: WorkerResources,
    claim: Claim,
    seen: StoredObject,
    *,
    send_before: float,
    stopped: threading.Event,
) -> str:
    """Copy the object to the vault and return the copy's ETag.

    Raises StoreError, and LeaseLost if `stopped` is set. After SentTooLate and the errors in
    CERTAIN, nothing is stored under the key.
    """
    described = describe_object(
        claim.id,
        claim.owner,
        claim.filename,
        content_type=claim.content_type,
        declared=claim.declared_sha256,
    )
    if claim.size > LARGEST_PUT_BYTES:
        return await copy_in_parts(resources, claim, seen, described, stopped)
    copied = await resources.vault.copy_from(
        resources.incoming,
        claim.incoming_key,
        etag=condition_on(seen),
        key=str(claim.vault_key),
        **described,
        send_before=send_before,
        timeout_seconds=allow_seconds(claim.size),
    )
    return copied.etag


def condition_on(seen: StoredObject) -> str | None:
    """Return the ETag that a copy requires of its source, or None if no condition can name it.

    Without the condition, the store may copy an object other than the one that was checked. This
    does no harm, because the commit compares the copy itself.
    """
    return seen.etag if is_condition(seen.etag) else None


def allow_seconds(size: int) -> float:
    return ANSWER_SECONDS + size / SLOWEST_COPY_BYTES_PER_SECOND


async def copy_in_parts(
    resources: WorkerResources,
    claim: Claim,
    seen: StoredObject,
    described: dict[str, Any],
    stopped: threading.Event,
) -> str:
    upload_id = await begin_copy(resources, claim, described)
    try:
        copied = await copy_parts(resources, claim, seen, upload_id=upload_id, stopped=stopped)
        return await resources.vault.complete_upload(
            str(claim.vault_key),
            upload_id,
            [(part.number, part.etag) for part in copied],
            timeout_seconds=ASSEMBLE_SECONDS + len(copied) / PARTS_A_SECOND,
        )
    except CERTAIN:
        await resources.vault.abort_upload(str(claim.vault_key), upload_id)
        raise


async def begin_copy(resources: WorkerResources, claim: Claim, described: dict[str, Any]) -> str:
    """Step 1 of the protocol above: begin the multipart upload and return its id.

    Raises StoreError, and LeaseLost if the reservation is doomed.
    """
    key = str(claim.vault_key)
    upload_id = await resources.vault.create_upload(key, **described)
    if not await reservations.name_upload(
        resources.pool, claim.vault_key, claim.lease, upload_id=upload_id
    ):
        await resources.vault.abort_upload(key, upload_id)
        raise LeaseLost("the reservation was doomed before the first part was copied")
    return upload_id


async def copy_parts(
    resources: WorkerResources,
    claim: Claim,
    seen: StoredObject,
    *,
    upload_id: str,
    stopped: threading.Event,
) -> list[StoredPart]:
    """Step 2 of the protocol above: copy the parts, and return them in order.

    Raises StoreError, and LeaseLost if `stopped` is set. Raises an error in CERTAIN only if every
    request was answered.
    """
    parts = cut(claim.size, usual_part_size=PART_BYTES)
    numbers = iter(range(1, parts.count + 1))
    copied: list[StoredPart] = []
    errors: list[StoreError] = []

    async def copy_one_by_one() -> None:
        for number in numbers:
            if stopped.is_set() or errors:
                return
            try:
                copied.append(
                    await ask_for_part(
                        resources, claim, seen, parts, upload_id=upload_id, number=number
                    )
                )
            except StoreError as error:
                errors.append(error)

    await asyncio.gather(*(copy_one_by_one() for _ in range(PARTS_AT_ONCE)))
    if errors:
        raise next((error for error in errors if not isinstance(error, CERTAIN)), errors[0])
    if stopped.is_set():
        raise LeaseLost("the lease was lost during the copy")
    return sorted(copied, key=lambda part: part.number)


async def ask_for_part(
    resources: WorkerResources,
    claim: Claim,
    seen: StoredObject,
    parts: Parts,
    *,
    upload_id: str,
    number: int,
) -> StoredPart:
    length = parts.size_of(number)
    return await resources.vault.copy_part_from(
        resources.incoming,
        claim.incoming_key,
        etag=condition_on(seen),
        key=str(claim.vault_key),
        upload_id=upload_id,
        number=number,
        offset=(number - 1) * parts.part_size,
        length=length,
        timeout_seconds=allow_seconds(length),
    )
