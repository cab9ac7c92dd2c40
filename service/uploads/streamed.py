"""Streamed uploads: the body of a request is hashed and written to the vault.

There is no temporary file. The protocol is that of a new file. service/uploads/mending.py has what
differs if the body is that of a damaged file.

1. Check the headers. If they are wrong, or Content-Length is too large, refuse the request before
   its body is read.
2. Read the body into a buffer for one part, which grows as bytes arrive. Its memory is borrowed in
   steps (service/uploads/buffers.py).
   - The client disconnects or is too slow, or the body is too large or malformed, or no memory is
     lent in time: refuse the request.
3. If the whole body fits into one part, compare its length and digest. If one differs, refuse the
   request. Otherwise take a key that was reserved in advance (service/database/reserved_keys.py),
   and send one PUT. The PUT binds the digest, so that the store accepts no other bytes. It is sent
   only while the lease is live by the clock of this process. (Nothing else prevents a late PUT from
   taking effect.) The lease is not extended, because enough of it is left for the PUT and the
   commit.
4. If the body is longer, insert the reservation, begin a multipart upload, and record its id in the
   reservation. Then send each full part, one at a time. A thread hashes and sends a part while the
   next one is received. The request for a part binds its digest. At the end, compare the length and
   the digest, and then complete the upload.
   - The reservation was doomed before it named the upload: abort the upload, as for a failure after
     the reservation.
   - Sending a part fails: refuse the request as soon as the next piece of the body has arrived.
5. Commit, once: one statement inserts the row into `files` from the live reservation, together with
   the request's `Idempotency-Key`, if it has one. It inserts neither if another request has used
   the key. The file is not visible to any client before that.

Failure before the reservation, or before a key was taken: nothing is left behind.

A PUT that was too late to be sent: delete the reservation. Nothing exists under its key.

Failure after the reservation, or a commit that did not return a row: wait for the response to a
part that is being sent, and doom the reservation.
   - It updated a row, or no commit was sent: no commit has succeeded or can succeed. Abort the
     multipart upload, and delete the object. The reservation stays for the sweeper, because a
     request without a response may still take effect. If another request has used the key, compare
     the two (service/uploads/repeated.py).
   - It updated no row: the commit may have succeeded. Read the file's row. If it names the key,
     return the file. Otherwise the sweeper had doomed the reservation before.
   - The database is unavailable: the sweeper dooms the reservation when its lease has expired. If
     no commit was sent, abort the upload and delete the object nevertheless, because the
     reservation may not name the multipart upload yet.

Lease: in step 4, the reservation's lease is extended in the background from its insertion on. If
the reservation was doomed, stop, and continue as for a failure after the reservation.

Cancellation at shutdown: continue as for a failure after the reservation, shielded from
cancellation, but do not wait for a part that is being sent. No write is sent twice.
"""

import asyncio
import contextlib
import functools
import hashlib
from collections.abc import AsyncIterator
from typing import Any, Final
from uuid import UUID

import msgspec
import structlog

from service import database, problems
from service.database.heartbeat import Heartbeat
from service.files import validation
from service.http.digests import SHA_256, RunningDigests, StatedDigest, find_sha256
from service.model import MOST_PARTS, Declaration, File, Sha256, make_id
from service.object_store import SentTooLate, StoreError
from service.queries import files, idempotency, reservations
from service.queries.idempotency import KeyedRequest, Remembered
from service.queries.reservations import HeldKey
from service.resources import Resources
from service.telemetry.transitions import report_transition
from service.uploads.buffers import PART_BYTES, UNCOUNTED_BYTES, Loan
from service.worker.copying import describe_object

SEND_SECONDS: Final = 60.0
"""The timeout for sending a part to the store, and then again for its response.

For a small body that the event loop sends, both together.
"""
CLEAN_SECONDS: Final = 10.0

log = structlog.get_logger()


class UploadHeaders(msgspec.Struct, frozen=True, kw_only=True):
    """What the headers of a request state about its file, after their checks.

    `digests` are compared with the bytes. `most_bytes` is the length of the request's body, which
    the file cannot exceed, or None if it is not announced.
    """

    owner: str
    filename: str
    content_type: str | None
    digests: tuple[StatedDigest, ...] = ()
    metadata: dict[str, str] = {}
    most_bytes: int | None
    idempotency_key: str | None = None

    def __post_init__(self) -> None:
        """Raise InvalidRequest if two fields state different SHA-256 digests."""
        find_sha256(self.digests)

    def start_digests(self) -> RunningDigests:
        return RunningDigests([SHA_256, *(one.algorithm for one in self.digests)])

    def declare(self, size: int) -> Declaration:
        return Declaration(
            owner=self.owner,
            filename=self.filename,
            size=size,
            content_type=self.content_type,
            sha256=find_sha256(self.digests),
            metadata=self.metadata,
        )

    def digest_request(self, size: int, sha256: Sha256) -> Sha256:
        """Return the digest by which requests with one key are compared, for the received bytes."""
        return validation.digest_streamed_upload(self.declare(size), sha256)


class Streaming:
    """The state of one streamed upload, and the checks and the commit of a new file.

    The state consists of the part that is being filled, the digest and the parts so far, and the
    reservation.
    """

    def __init__(
        self,
        resources: Resources,
        loan: Loan,
        headers: UploadHeaders,
        *,
        file_id: UUID | None = None,
    ) -> None:
        self.resources = resources
        self.loan = loan
        self.headers = headers
        self.file_id = file_id or make_id()
        self.buffer = bytearray()
        self.size = 0
        self.digests = headers.start_digests()
        self.held: HeldKey | None = None
        self.heartbeat: Heartbeat | None = None
        self.upload_id: str | None = None
        self.parts: list[tuple[int, str]] = []
        self.sending: asyncio.Task[None] | None = None
        # An object may exist, or may come to exist, under the vault key.
        self.asked_store = False
        self.asked_commit = False

    @property
    def key(self) -> str:
        return str(self.reservation.vault_key)

    @property
    def reservation(self) -> HeldKey:
        assert self.held is not None  # noqa: S101  # it precedes every write
        return self.held

    def describe_object(self) -> dict[str, Any]:
        headers = self.headers
        return describe_object(
            self.file_id,
            headers.owner,
            headers.filename,
            content_type=headers.content_type,
            declared=find_sha256(headers.digests),
        )

    def check_size(self) -> None:
        """Check the size of what was received so far. Raises FileTooLarge."""
        check_size(self.resources, self.size)

    def check_bytes(self) -> None:
        """Compare the whole body with what the request states. Raises DigestMismatch."""
        self.digests.compare(self.headers.digests, subject="file")

    async def commit(self, etag: str) -> File | None:
        """Commit the file (step 5 of the protocol above). Return None if no row was changed."""
        headers, sha256 = self.headers, self.digests.sha256
        key = headers.idempotency_key
        return await reservations.commit_streamed_upload(
            self.resources.pool,
            self.reservation,
            headers.declare(self.size),
            file_id=self.file_id,
            sha256=sha256,
            etag=etag,
            keyed=None
            if key is None
            else KeyedRequest(key, headers.digest_request(self.size, sha256)),
        )

    async def explain_loss(self) -> None:
        """Raise the reason why the commit changed no row, if it was not the reservation.

        Raises KeyUsed if another request has used the key.
        """
        headers = self.headers
        if headers.idempotency_key is None:
            return
        earlier = await idempotency.recall_request(
            self.resources.pool, headers.owner, headers.idempotency_key
        )
        if earlier is not None:
            raise KeyUsed(earlier, headers.digest_request(self.size, self.digests.sha256))


class ReservationLost(Exception):
    """A reservation that the sweeper has doomed, because its lease had expired."""


class KeyUsed(Exception):
    """A commit that inserted nothing, because another request had used its `Idempotency-Key`.

    `request_sha256` is the digest of this request.
    """

    def __init__(self, earlier: Remembered, request_sha256: Sha256) -> None:
        super().__init__()
        self.earlier = earlier
        self.request_sha256 = request_sha256


async def upload_stream(
    resources: Resources, loan: Loan, headers: UploadHeaders, body: AsyncIterator[bytes]
) -> File:
    """Store, hash and commit the body, and return the file.

    Raises FileTooLarge, DigestMismatch, Unavailable, KeyUsed, StoreError, and the exceptions of
    `body`.
    """
    file = await run_upload(Streaming(resources, loan, headers), body)
    report_transition(file)
    return file


async def run_upload(upload: Streaming, body: AsyncIterator[bytes]) -> File:
    """Run the protocol above, and return the committed file.

    Raises what the checks of `upload` raise, Unavailable, StoreError, and the exceptions of `body`.
    """
    try:
        file = await store(upload, body)
    finally:
        upload.loan.buffers.repay(upload.loan)
        if upload.heartbeat is not None:
            await upload.heartbeat.stop()
    upload.resources.notifications.notify_change(file.id)
    return file


async def store(upload: Streaming, body: AsyncIterator[bytes]) -> File:
    """Run steps 2 to 5 of the protocol above, and the branches for their failures."""
    try:
        etag = await send_all(upload, body)
        return await commit(upload, etag)
    except Exception as error:
        committed: File | None = await asyncio.shield(give_up(upload, error))
        if committed is not None:
            return committed
        if isinstance(error, ReservationLost) and upload.asked_commit:
            await upload.explain_loss()
        if isinstance(error, (ReservationLost, SentTooLate)):
            raise problems.Unavailable(
                "the upload took too long and was dropped: send it again"
            ) from error
        raise
    except BaseException as error:  # cancelled at shutdown
        await asyncio.shield(give_up(upload, error))
        raise


def check_size(resources: Resources, size: int) -> None:
    most = min(resources.settings.max_file_bytes, PART_BYTES * MOST_PARTS)
    if size > most:
        raise problems.FileTooLarge(
            f"the body has {size} bytes or more, which exceeds the limit of {most} bytes "
            "for a streamed upload",
            limit=most,
        )


async def send_all(upload: Streaming, body: AsyncIterator[bytes]) -> str:
    """Run steps 2 to 4 of the protocol above, and return the object's ETag."""
    async for piece in body:
        upload.size += len(piece)
        upload.check_size()
        check_held(upload)
        check_sending(upload)
        await fill(upload, piece)
    if upload.upload_id is None:
        return await put_whole(upload)
    return await complete(upload, upload.upload_id)


def check_held(upload: Streaming) -> None:
    if upload.heartbeat is not None and upload.heartbeat.is_lost:
        raise ReservationLost("the reservation was doomed")


async def fill(upload: Streaming, piece: bytes) -> None:
    rest = memoryview(piece)
    while rest:
        if len(upload.buffer) == PART_BYTES:
            await begin_sending(upload)
        if len(upload.buffer) == upload.loan.room:
            await borrow(upload)
        room = upload.loan.room - len(upload.buffer)
        upload.buffer += rest[:room]
        rest = rest[room:]


def check_sending(upload: Streaming) -> None:
    """Raise the error of the part that is being sent, if that has failed."""
    if upload.sending is not None and upload.sending.done():
        upload.sending.result()


async def borrow(upload: Streaming) -> None:
    """Borrow memory for the part that is being received.

    If that is not possible at once, first wait until the part before it has been sent.
    """
    buffers = upload.loan.buffers
    if upload.sending is not None:
        if buffers.extend_at_once(upload.loan):
            return
        await finish_sending(upload)
    most = upload.headers.most_bytes
    sent = len(upload.parts) * PART_BYTES
    upload.loan.needed = PART_BYTES if most is None else min(PART_BYTES, most - sent)
    await buffers.extend(upload.loan)


async def reserve_key(upload: Streaming) -> None:
    lease = upload.resources.settings.lease
    upload.held = await reservations.reserve_key(
        upload.resources.pool, upload.file_id, upload.headers.owner, lease=lease
    )
    extend = functools.partial(
        reservations.extend_reservation, upload.resources.pool, upload.held, lease
    )
    upload.heartbeat = Heartbeat(extend, lease=lease, file_id=upload.file_id)


async def put_whole(upload: Streaming) -> str:
    """Run step 3 of the protocol above, and return the object's ETag."""
    if len(upload.buffer) > UNCOUNTED_BYTES:
        await upload.loan.buffers.run(upload.digests.update, upload.buffer)
    else:
        upload.digests.update(upload.buffer)
    upload.check_bytes()
    reserved = await upload.resources.reserved_keys.take()
    upload.held = reserved.held
    # It is set here, because the thread may start after this task was cancelled.
    upload.asked_store = True
    try:
        return await put(upload, reserved.end)
    except SentTooLate:
        upload.asked_store = False
        raise


async def put(upload: Streaming, lease_end: float) -> str:
    """Send one PUT, if the lease is still live just before the first byte is sent.

    A small body is sent from the event loop. Raises SentTooLate, and StoreError.
    """
    vault = upload.resources.vault
    options = upload.describe_object() | {
        "sha256": str(upload.digests.sha256),
        "send_before": lease_end,
        "timeout_seconds": SEND_SECONDS,
    }
    if len(upload.buffer) <= UNCOUNTED_BYTES:
        return await vault.put(upload.key, upload.buffer, **options)
    put_in_thread = functools.partial(vault.put_now, upload.key, upload.buffer, **options)
    return await upload.loan.buffers.run(put_in_thread)


async def begin_multipart(upload: Streaming) -> str:
    """Begin the multipart upload of step 4, and return its id after the reservation names it.

    Raises ReservationLost and StoreError.
    """
    await reserve_key(upload)
    upload.asked_store = True
    upload.upload_id = await upload.resources.vault.create_upload(
        upload.key, **upload.describe_object()
    )
    if not await reservations.name_upload(
        upload.resources.pool,
        upload.reservation.vault_key,
        upload.reservation.lease,
        upload_id=upload.upload_id,
    ):
        raise ReservationLost("the reservation was doomed before the first part was sent")
    return upload.upload_id


async def begin_sending(upload: Streaming) -> None:
    """Begin to send the part that was received, when the one before it has been sent."""
    upload_id = upload.upload_id or await begin_multipart(upload)
    await finish_sending(upload)
    loan = upload.loan.hand_over()
    upload.sending = asyncio.create_task(send_part(upload, loan, upload_id, upload.buffer))
    upload.sending.add_done_callback(retrieve_error)
    upload.buffer = bytearray()


def retrieve_error(sent: asyncio.Task[None]) -> None:
    """Retrieve the error of a part, so that the event loop does not report it.

    The upload may have ended already.
    """
    if not sent.cancelled():
        sent.exception()


async def send_part(upload: Streaming, loan: Loan, upload_id: str, content: bytearray) -> None:
    try:
        upload.parts.append(await loan.buffers.run(send_part_now, upload, upload_id, content))
    finally:
        loan.buffers.repay(loan)


def send_part_now(upload: Streaming, upload_id: str, content: bytearray) -> tuple[int, str]:
    upload.digests.update(content)
    number = len(upload.parts) + 1
    etag = upload.resources.vault.put_part(
        upload.key,
        upload_id,
        number,
        content,
        sha256=hashlib.sha256(content).hexdigest(),
        timeout_seconds=SEND_SECONDS,
    )
    return number, etag


async def finish_sending(upload: Streaming) -> None:
    """Wait until the part that is being sent has been sent, if there is one. Raises StoreError."""
    if upload.sending is not None:
        # A cancellation of this task does not cancel the other one, whose thread goes on.
        await asyncio.wait([upload.sending])
        check_sending(upload)
        upload.sending = None


async def complete(upload: Streaming, upload_id: str) -> str:
    await begin_sending(upload)
    await finish_sending(upload)
    upload.check_bytes()
    check_held(upload)
    seconds = SEND_SECONDS + len(upload.parts) / 50
    return await upload.resources.vault.complete_upload(
        upload.key, upload_id, upload.parts, timeout_seconds=seconds
    )


async def commit(upload: Streaming, etag: str) -> File:
    """Run step 5 of the protocol above. Raises ReservationLost if no row was changed."""
    upload.asked_commit = True
    file = await upload.commit(etag)
    if file is None:
        raise ReservationLost("the commit changed no row")
    return file


async def give_up(upload: Streaming, error: BaseException) -> File | None:
    """Run the branches for failures of the protocol above.

    Return the file if its commit has succeeded after all, and None otherwise.
    """
    if upload.held is None:
        return None
    log.warning(
        "streamed upload abandoned",
        file_id=str(upload.file_id),
        error=str(error) or type(error).__name__,
    )
    pool, reservation = upload.resources.pool, upload.held
    if upload.sending is not None and isinstance(error, Exception):
        upload.buffer = bytearray()
        upload.loan.buffers.repay(upload.loan)  # another upload may wait for this memory
        await asyncio.gather(upload.sending, return_exceptions=True)
    try:
        if not upload.asked_store:
            await reservations.forget_reservation(pool, reservation.vault_key, reservation.lease)
        elif (
            await reservations.doom_reservation(pool, reservation.vault_key, reservation.lease)
            or not upload.asked_commit
        ):
            await remove(upload)
        else:
            file = await files.find_file(pool, upload.file_id, owner=None)
            if file is not None and file.minio_object_name == reservation.vault_key:
                return file
    except database.UNREACHABLE as away:
        log.warning(
            "reservation left to the sweeper",
            file_id=str(upload.file_id),
            error=type(away).__name__,
        )
        if upload.asked_store and not upload.asked_commit:
            await remove(upload)
    return None


async def remove(upload: Streaming) -> None:
    """Abort the multipart upload and delete the object, when no commit can still succeed.

    Errors of the store are ignored, because the sweeper repeats both.
    """
    vault = upload.resources.vault
    with contextlib.suppress(StoreError):
        if upload.upload_id is not None:
            await vault.abort_upload(upload.key, upload.upload_id)
        await vault.delete(upload.key, timeout_seconds=CLEAN_SECONDS)
