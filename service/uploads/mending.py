"""The bytes of a damaged file, which its owner sends again.

A file is `damaged` if the scrub or `assay reconcile` has found its object missing or altered. The
size and the SHA-256 of the proved bytes are in the row.

1. Read the row. If the file is not damaged, refuse the request, as its state requires.
2. Check what the request states. A length or a SHA-256 other than those of the file is refused
   before the body is read. An empty body is refused, unless the file is empty.
3. Receive the body and write it to the vault under a fresh reserved key, as steps 2 to 4 of
   service/uploads/streamed.py. Its length and its SHA-256 must be those of the file.
   - The body is longer than the file: refuse the request at once.
   - They differ at the end: refuse the request. A small body was not written. The object of a large
     one is removed, as after every failure.
4. Commit, once: one statement makes the file `ready` with the new key and its ETag, deletes the
   reservation of that key, and dooms the old key. It requires that the file is still damaged, that
   its row still names the old key, and that the reservation is not doomed. The sweeper deletes the
   old object after SWEEP_DELAY.
   - The statement changes no row: doom the reservation and remove the new object. Then read the
     row. If the file was deleted meanwhile: 410. If it is `ready`, because the scrub has found the
     bytes whole or another request has sent them: 409. Otherwise: 503.
   - No response to the statement: continue as streamed.py does. The commit has taken effect if the
     row names the new key.

The scrub may read the old object while the bytes are sent. Its verdict changes only a row that
names the object that it has read, so it cannot change the file after the commit.

`tests/model/damaged.py` has these rules.
"""

from collections.abc import AsyncIterator
from typing import Any

import structlog

from service import problems
from service.files.lookup import find_file, gone
from service.http.digests import SHA_256, StatedDigest
from service.model import GONE, File, ProvedFile, State
from service.problems import InvalidRequest
from service.queries.mending import commit_mended_file
from service.resources import Resources
from service.uploads.arrivals import refuse_more
from service.uploads.buffers import Loan
from service.uploads.streamed import Streaming, UploadHeaders, run_upload
from service.worker.copying import describe_object

log = structlog.get_logger()


class Mending(Streaming):
    """The state of an upload of a damaged file, with its checks and its commit."""

    def __init__(
        self, resources: Resources, loan: Loan, file: ProvedFile, digests: tuple[StatedDigest, ...]
    ) -> None:
        headers = UploadHeaders(
            owner=file.owner,
            filename=file.filename,
            content_type=file.content_type,
            digests=digests,
            most_bytes=file.size,
        )
        super().__init__(resources, loan, headers, file_id=file.id)
        self.file = file

    def describe_object(self) -> dict[str, Any]:
        file = self.file
        return describe_object(
            file.id,
            file.owner,
            file.filename,
            content_type=file.content_type,
            # The digest is known, so that reconcile does not take the altered object for this one.
            declared=file.hash,
        )

    def check_size(self) -> None:
        """Check the size of what was received so far. Raises DigestMismatch and FileTooLarge."""
        if self.size > self.file.size:
            raise wrong_length(self.file, f"{self.size} bytes or more")
        super().check_size()

    def check_bytes(self) -> None:
        """Compare the whole body with the file and the request.

        Raises DigestMismatch and InvalidRequest.
        """
        if self.size == 0 and self.file.size > 0:
            raise empty_body(self.file)
        if self.size != self.file.size:
            raise wrong_length(self.file, f"{self.size} bytes")
        super().check_bytes()
        if self.digests.sha256 != self.file.hash:
            raise problems.DigestMismatch(
                f"the file has the sha-256 {self.file.hash}, but the received bytes have"
                f" {self.digests.sha256}; the file stays damaged"
            )

    async def commit(self, etag: str) -> File | None:
        """Commit the file (step 4 of the protocol above). Return None if no row was changed."""
        return await commit_mended_file(
            self.resources.pool,
            self.reservation,
            self.file.id,
            old_key=self.file.minio_object_name,
            size=self.size,
            sha256=self.digests.sha256,
            etag=etag,
            sweep_delay=self.resources.settings.sweep_delay,
            by="client",
            why="the bytes were sent again",
        )

    async def explain_loss(self) -> None:
        """Raise the problem that the file's state requires, unless the file is still damaged."""
        file = await find_file(self.resources, self.file.id, owner=None)
        if file.state != State.DAMAGED:
            raise await refuse(self.resources, file)


async def send_again(
    resources: Resources,
    loan: Loan,
    file: ProvedFile,
    *,
    length: int | None,
    digests: tuple[StatedDigest, ...],
    body: AsyncIterator[bytes],
) -> File:
    """Store the body as the bytes of the damaged file, and return the `ready` file.

    `length` is that of the body, or None for a chunked body. Raises InvalidRequest, DigestMismatch,
    FileTooLarge, FileGone, AlreadyUploaded, Unavailable, StoreError, and the exceptions of `body`.
    """
    check_stated(file, length, digests)
    mended = await run_upload(Mending(resources, loan, file, digests), body)
    if mended.state in GONE:
        raise gone(mended)  # the owner deleted it after the commit, whose response was lost
    log.info("damaged file sent again", file_id=str(mended.id), owner=mended.owner)
    return mended


def check_stated(file: ProvedFile, length: int | None, digests: tuple[StatedDigest, ...]) -> None:
    """Run step 2 of the protocol above. Raises InvalidRequest and DigestMismatch."""
    if length == 0 and file.size > 0:
        raise empty_body(file)
    if length not in (None, file.size):
        raise wrong_length(file, f"{length} bytes")
    for one in digests:
        if one.algorithm == SHA_256 and one.digest != file.hash.digest:
            raise problems.DigestMismatch.at(
                one.field,
                f"states the sha-256 {one.digest.hex()}, but the file has {file.hash};"
                " the file stays damaged",
            )


def empty_body(file: ProvedFile) -> InvalidRequest:
    return InvalidRequest.at(
        "body",
        f"is empty, but the file is damaged: send its {file.size} bytes as the body of this"
        " request, or delete the file",
    )


def wrong_length(file: ProvedFile, received: str) -> problems.DigestMismatch:
    return problems.DigestMismatch.at(
        "body", f"has {received}, but the file has {file.size}; the file stays damaged"
    )


async def refuse(resources: Resources, file: File) -> problems.Problem:
    """Return the problem of a body for a file that is not damaged (step 1 of the protocol above).

    If the file is `verifying`, an arrival is recorded, as for a request without a body.
    """
    if file.state in GONE:
        return gone(file)
    if file.state == State.PENDING:
        return InvalidRequest.at(
            "body",
            "must be empty, because the file is pending: send the bytes to the upload URL that this"
            " request returns without a body",
        )
    return await refuse_more(resources, file)
