"""Sending a file: declare, send, complete, wait.

1. Open the source and note its fingerprint. A stream has no size: it goes through the API in one request (streams.py).
2. Declare it, with an Idempotency-Key, so that a lost answer declares nothing twice.
3. Send the bytes as the answer says: in one PUT (this module), or in parts (parts.py). One PUT is hashed while it is sent.
4. Look at the fingerprint again: bytes that changed while they were read are no file. Changed: SourceChanged; the upload is cancelled.
5. Complete, with the digest: the server compares it with what it proves. The store has no bytes after all: send them once more.
6. Wait until the file is final. `rejected`: Rejected.
"""

import contextlib
import hashlib
import secrets
import time
from collections.abc import Iterator, Mapping
from typing import Any, Final, Literal
from uuid import UUID

import msgspec

from assay import store
from assay.api import LONGEST_WAIT_SECONDS, Api, Declared, Upload
from assay.errors import AlreadyUploaded, AssayError, Gone, NotFinal, NotUploaded, Rejected, SourceChanged
from assay.files import GONE, UNPROVED, File
from assay.progress import Meter
from assay.retries import Patience
from assay.sources import Source
from assay.transport import PIECE

Hash = Literal["auto", "whole", "parts", "none"]
MOST_SENDINGS: Final = 2


class Wish(msgspec.Struct, frozen=True, kw_only=True):
    """What the caller says of an upload."""

    filename: str
    content_type: str | None
    metadata: Mapping[str, str]
    sha256: str | None
    multipart: bool | None
    hash: Hash
    parallel: int

    def fields(self, size: int) -> dict[str, Any]:
        """The declaration's body; what is None is left out."""
        said = {
            "filename": self.filename,
            "size": size,
            "content_type": self.content_type,
            "sha256": self.sha256,
            "multipart": self.multipart,
        }
        return {name: value for name, value in said.items() if value is not None} | (
            {"metadata": dict(self.metadata)} if self.metadata else {}
        )


class Sending:
    """One upload under way."""

    def __init__(self, api: Api, source: Source, wish: Wish, *, meter: Meter) -> None:
        self.api = api
        self.source = source
        self.wish = wish
        self.meter = meter
        self.sha256 = wish.sha256


def upload_source(sending: Sending, *, wait: bool, timeout: float | None) -> File:
    """Steps 2 to 6."""
    declared = sending.api.declare(sending.wish.fields(sending.source.size), idempotency_key=secrets.token_hex(16))
    file = send_and_complete(sending, declared, wait=LONGEST_WAIT_SECONDS if wait else 0)
    return wait_until_final(sending.api, file, timeout=timeout, meter=sending.meter) if wait else file


def send_and_complete(sending: Sending, declared: Declared, *, wait: int) -> File:
    """Steps 3 to 5. Raises what sending raises."""
    upload = declared.upload
    for attempt in range(MOST_SENDINGS):
        if upload is not None:
            send_whole(sending, declared.file.id, upload)
        sending.meter.enter("verifying")
        try:
            return sending.api.complete(declared.file.id, sha256=sending.sha256, wait=wait)
        except NotUploaded:
            if attempt + 1 == MOST_SENDINGS:
                raise
        upload = sending.api.renew_upload(declared.file.id).upload
    raise AssertionError("the loop returns or raises")


def send_whole(sending: Sending, file_id: UUID, upload: Upload) -> None:
    """One PUT, hashed on its way, repeated by the rules of store.py."""
    assert upload.url is not None  # noqa: S101  # no parts
    size = sending.source.size

    def renew() -> store.Put:
        renewed = sending.api.renew_upload(file_id).upload
        if renewed is None or renewed.url is None:
            raise store.AlreadyThere
        return store.Put(renewed.url, renewed.headers, size)

    first = store.Put(upload.url, upload.headers, size)
    sending.meter.enter("sending")
    try:
        store.put(sending.api.transport, first, renew=renew, open_body=lambda: read_whole(sending), patience=Patience(sending.api.patience))
    except (AlreadyUploaded, store.AlreadyThere):
        sending.sha256 = sending.wish.sha256  # what this run read may not be what an earlier one sent
    try:
        sending.source.check_unchanged()
    except SourceChanged:
        cancel(sending.api, file_id)
        raise


def read_whole(sending: Sending) -> Iterator[memoryview]:
    """From the start; when it was read to its end, its digest is known."""
    hashing = sending.wish.hash != "none" and sending.wish.sha256 is None
    digest, place = hashlib.sha256(), 0
    buffer = memoryview(bytearray(min(PIECE, sending.source.size)))
    try:
        while place < sending.source.size:
            piece = buffer[: sending.source.read_into(buffer[: sending.source.size - place], place)]
            if hashing:
                digest.update(piece)
            place += len(piece)
            yield piece
            sending.meter.add(len(piece))
        if hashing:
            sending.sha256 = digest.hexdigest()
    finally:
        if place < sending.source.size:
            sending.meter.add(-place)


def cancel(api: Api, file_id: UUID) -> None:
    """As far as that can be done: what is left expires."""
    with contextlib.suppress(AssayError):
        api.delete(file_id)


def wait_until_final(api: Api, file: File, *, timeout: float | None, meter: Meter) -> File:
    """The file when it is `ready`. Raises Rejected, Gone, NotFinal."""
    ends = None if timeout is None else time.monotonic() + timeout
    meter.enter("verifying")
    while file.state in UNPROVED:
        left = LONGEST_WAIT_SECONDS if ends is None else min(LONGEST_WAIT_SECONDS, int(ends - time.monotonic()))
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
