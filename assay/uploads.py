"""Uploads from the client's side: declare, send, complete, wait.

1. Open the source and note its fingerprint. A stream has no known size, so it is sent through the
   API in one request (streams.py).
2. Open the journal (journals.py), if the upload is to be resumable. If it records a file, the next
   action depends on the file's state:
   - *pending:* request the URL or the parts for what is missing. If the bytes have arrived
     already, continue with step 4.
   - *verifying or ready:* continue with step 4, which compares the digest. If the file has another
     digest, raise SourceChanged.
   - *rejected:* remove the journal and raise Rejected, because a repetition gives the same result.
   - *expired, deleted, damaged or not found, or its parts are lost:* start the journal again.

   Otherwise, declare the file under the journal's Idempotency-Key, and record its id. (If the
   response is lost, the repeated request does not declare a second file.)
3. Send the bytes as the response describes: in one PUT that is hashed while it is sent, or in parts
   (parts.py). Then compare the fingerprint again. If it differs, the source changed while it was
   read: cancel the upload and raise SourceChanged.
4. Send `complete` with the digest, which the server compares with the proved one. If the digest is
   not known because an earlier run sent the bytes, read the source to compute it.
   - *The store has no object, or lacks parts:* send them, and send `complete` again.
   - *The parts are lost:* remove the journal and raise UploadLost.
5. Wait until the file is final, and remove the journal.
   - *The file is `rejected` because its digest differs:* read the source again. If it still has
     the digest that the client sent, the bytes changed in transit: start again with step 2, once.
     If the client computed the digest, and the source has another one by now, raise SourceChanged.
   - *Otherwise rejected:* raise Rejected.

Any other error leaves the journal in place, and the next run continues from it.
"""

import contextlib
import hashlib
import time
from collections.abc import Iterator
from typing import Final
from uuid import UUID

from assay import store
from assay.api import LONGEST_WAIT_SECONDS, Api, Declared, Upload
from assay.errors import (
    AlreadyUploaded,
    AssayError,
    DigestConflict,
    Gone,
    IncompleteParts,
    NotFinal,
    NotFound,
    NotUploaded,
    Rejected,
    SourceChanged,
    SourceUnreadable,
    StoreRefused,
    UploadLost,
)
from assay.files import GONE, UNPROVED, File
from assay.parts import send_missing, send_parts
from assay.progress import Meter, Share
from assay.retries import RetryPolicy
from assay.sendings import Sending
from assay.transport import PIECE

MOST_SENDINGS: Final = 3
DIGEST_MISMATCH: Final = "digest-mismatch"
HOPELESS: Final = (Rejected, Gone, UploadLost)
"""The errors after which an upload cannot be resumed."""


def upload_source(sending: Sending, *, wait: bool, timeout: float | None) -> File:
    """Run steps 2 to 5 of the protocol above, and return the file."""
    try:
        try:
            file = send_and_wait(sending, wait=wait, timeout=timeout)
        except Rejected as error:
            if error.file.rejection is None or error.file.rejection.reason != DIGEST_MISMATCH:
                raise
            check_source_again(sending, error)
            sending.journal.begin_again()
            file = send_and_wait(sending, wait=wait, timeout=timeout)
    except HOPELESS:
        sending.journal.remove()
        raise
    sending.journal.remove()
    return file


def send_and_wait(sending: Sending, *, wait: bool, timeout: float | None) -> File:
    """Run steps 2 to 5 of the protocol above, without the branches for a rejected file."""
    file = send_once_more(sending, wait=LONGEST_WAIT_SECONDS if wait else 0)
    if not wait:
        return file
    return wait_until_final(sending.api, file, timeout=timeout, meter=sending.meter)


def check_source_again(sending: Sending, rejected: Rejected) -> None:
    """Return if the source has the digest that was sent to the server.

    Raises `rejected` if the caller's digest is wrong or the server has none, and SourceChanged.
    """
    sent = sending.sha256
    if sent is None:
        raise rejected
    sending.source.check_unchanged()
    if hash_source(sending) == sent.lower():
        return
    if not sending.wants_whole:
        raise rejected
    sending.journal.remove()
    raise SourceChanged(f"{sending.source.name} changed while it was sent") from rejected


def send_once_more(sending: Sending, *, wait: int) -> File:
    """Run steps 2 to 4 of the protocol above.

    If the parts that an earlier run sent are lost, start again with step 2. Raises UploadLost if
    the parts of this run are lost.
    """
    declared, resumed = find_declared(sending)
    try:
        return send_and_complete(sending, declared, resumed=resumed, wait=wait)
    except UploadLost:
        if not resumed:
            raise
    sending.journal.begin_anew()
    declared, _ = find_declared(sending)
    return send_and_complete(sending, declared, resumed=False, wait=wait)


def find_declared(sending: Sending) -> tuple[Declared, bool]:
    """Run step 2 of the protocol above.

    Return the declared file, and whether an earlier run may have sent some of its bytes.
    """
    journal = sending.journal
    if journal.file is not None:
        found = look_again(sending, journal.file)
        if found is not None:
            return found, True
        journal.begin_anew()
    declared = declare(sending)
    if declared.file.state in GONE:  # the Idempotency-Key belongs to an old declaration
        journal.begin_anew()
        declared = declare(sending)
    journal.note_file(declared.file.id)
    return declared, False


def declare(sending: Sending) -> Declared:
    return sending.api.declare(
        sending.options.fields(sending.source.size), idempotency_key=sending.journal.key
    )


def look_again(sending: Sending, file_id: UUID) -> Declared | None:
    """Read the state of the journal's file. Return None if the upload cannot be resumed.

    Raises Rejected.
    """
    try:
        file = sending.api.read_metadata(file_id)
        if file.state == "pending":
            with contextlib.suppress(AlreadyUploaded):
                return sending.api.renew_upload(file_id)
    except (NotFound, Gone, UploadLost):
        return None
    if file.state == "rejected":
        raise Rejected(file)
    return None if file.state in GONE or file.state == "damaged" else Declared(file)


def send_and_complete(sending: Sending, declared: Declared, *, resumed: bool, wait: int) -> File:
    """Run steps 3 and 4 of the protocol above, and return the file."""
    upload, file_id = declared.upload, declared.file.id
    for _ in range(MOST_SENDINGS):
        if upload is not None:
            send(sending, file_id, upload, resumed=resumed)
        if sending.wants_whole and sending.sha256 is None:
            sending.sha256 = hash_source(sending)
        sending.meter.enter("verifying")
        try:
            return sending.api.complete(file_id, sha256=sending.sha256, wait=wait)
        except DigestConflict as error:
            raise SourceChanged(
                f"{sending.source.name} does not have the bytes that an earlier run sent",
                sending.journal.path,
            ) from error
        except (NotUploaded, IncompleteParts) as error:
            lacking = error
        upload, resumed = renew(sending, file_id), True
        if (
            upload is not None
            and upload.multipart is not None
            and isinstance(lacking, IncompleteParts)
        ):
            send_missing(
                sending,
                file_id,
                upload.multipart,
                numbers=sorted({*lacking.missing, *lacking.wrong_size}),
            )
            upload = None
    raise lacking


def renew(sending: Sending, file_id: UUID) -> Upload | None:
    """Request a new URL or new parts. Return None if the bytes have arrived in the meantime."""
    try:
        return sending.api.renew_upload(file_id).upload
    except AlreadyUploaded:
        return None


def send(sending: Sending, file_id: UUID, upload: Upload, *, resumed: bool) -> None:
    """Run step 3 of the protocol above."""
    sending.meter.enter("sending")
    try:
        if upload.multipart is not None:
            send_parts(sending, file_id, upload.multipart, resumed=resumed)
        else:
            send_whole(sending, file_id, upload)
        sending.source.check_unchanged()
    except (SourceChanged, SourceUnreadable, StoreRefused) as error:
        if sending.journal.path is None or (
            isinstance(error, SourceChanged) and error.state is None
        ):
            give_up(sending, file_id)  # no later run could resume it
        raise


def give_up(sending: Sending, file_id: UUID) -> None:
    """Delete the file and the journal. If the request fails, the file expires by itself."""
    with contextlib.suppress(AssayError):
        sending.api.delete(file_id)
    sending.journal.remove()


def send_whole(sending: Sending, file_id: UUID, upload: Upload) -> None:
    """Send the file in one PUT, with the retries of store.py."""
    share, size = Share(sending.meter), sending.source.size

    def sign_anew() -> store.Put:
        renewed = renew(sending, file_id)
        if renewed is None or renewed.url is None:
            raise AlreadyUploaded("the file no longer needs an upload")
        return store.Put(renewed.url, renewed.headers, size)

    first = store.Put(upload.url or "", upload.headers, size)
    with contextlib.suppress(AlreadyUploaded):
        store.put(
            sending.api.transport,
            first,
            renew=sign_anew,
            open_body=lambda: share.watch(read_whole(sending)),
            retries=RetryPolicy(sending.api.retry_seconds),
        )


def read_whole(sending: Sending) -> Iterator[memoryview]:
    """Yield the source from its start. The digest is known once the end has been reached."""
    digest = hashlib.sha256()
    for piece in read_pieces(sending):
        if sending.wants_whole:
            digest.update(piece)
        yield piece
    if sending.wants_whole:
        sending.sha256 = digest.hexdigest()


def read_pieces(sending: Sending) -> Iterator[memoryview]:
    place, size = 0, sending.source.size
    buffer = memoryview(bytearray(min(PIECE, size)))
    while place < size:
        piece = buffer[: sending.source.read_into(buffer[: size - place], place)]
        place += len(piece)
        yield piece


def hash_source(sending: Sending) -> str:
    """Read the source, and return its digest."""
    sending.meter.enter("checking")
    digest = hashlib.sha256()
    for piece in read_pieces(sending):
        digest.update(piece)
    return digest.hexdigest()


def wait_until_final(api: Api, file: File, *, timeout: float | None, meter: Meter) -> File:
    """Wait until the file is `ready`, and return it. Raises Rejected, Gone, NotFinal."""
    ends = None if timeout is None else time.monotonic() + timeout
    meter.enter("verifying")
    while file.state in UNPROVED:
        left = (
            LONGEST_WAIT_SECONDS
            if ends is None
            else min(LONGEST_WAIT_SECONDS, int(ends - time.monotonic()))
        )
        if left < 0:
            raise NotFinal(file)
        file = api.read_metadata(file.id, wait=max(left, 0))
        if left == 0 and file.state in UNPROVED:
            raise NotFinal(file)
    if file.state == "rejected":
        raise Rejected(file)
    if file.state in GONE:
        raise Gone(f"{file.filename} is {file.state}")
    meter.enter("done")
    return file
