"""Downloads: the bytes of a proved file, streamed from the vault to a client.

The client may be slow, may pause, and may disconnect at any time.

1. Read the row. If the file is not `ready`, refuse the request, as its state requires.
2. Evaluate the conditions, and then the range, from the row alone. 304, 412 and 416 need no request
   to the store.
3. Open the vault object, with If-Match of the row's ETag, before any header is sent.
   - The object is missing or has another ETag: read the row again, and refuse the request as its
     state requires. If it is still `ready` with the same object: 502. The state stays, because the
     scrub decides. The file's next check by the scrub is made due at once.
   - The row names another object by now, because the bytes were sent again, or the scrub has
     found the object whole: open that one, once.
   - The store is unavailable: 503.
4. Send the headers, and then chunk after chunk. For each chunk, take memory from the budget of the
   process, read in a thread, send, wait until the transport has sent almost all of it, and release
   the memory. The wait for a client occupies no thread. The next chunk is read during this wait
   only while half of the budget is free.
   - The client has not taken a chunk after PAUSE_SECONDS: close the connection to the store. (The
     store would soon cut it, and an open read may delay a DELETE until then.) The next read opens
     another connection.
   - The store ends the connection, stalls or answers 5xx: open the object again at the byte where
     the read stopped, with the same If-Match, after each of RESUME_DELAYS in turn. After a chunk
     has arrived, the delays begin again with the first.
   - The object is missing or has changed, or no attempt is left: stop before the announced length.
     The server then drops the client's connection.
   - The client disconnects: stop sending. Close the connection to the store as soon as no thread
     is reading from it.
   - The permit of the download is withdrawn (service/downloads/permits.py): stop as if the object
     were missing.
"""

import asyncio
import contextlib
import threading
from typing import Any, Final
from uuid import UUID

import structlog
from litestar import Response
from litestar.types import Receive, Scope, Send

from service import database, problems
from service.downloads.permits import Permit
from service.files.lookup import find_file, gone
from service.http.budget import Budget
from service.http.disconnects import stop, wait_for_disconnect
from service.http.representation import Span
from service.model import UNPROVED, ProvedFile, State
from service.object_store import (
    Bucket,
    ObjectChanged,
    ObjectMissing,
    ObjectReader,
    StoreError,
    StoreUnavailable,
)
from service.queries import scrubbing
from service.resources import Resources
from service.telemetry.metrics import STORE_RETRIES

SMALLEST_CHUNK_BYTES: Final = 64 * 1024
LARGEST_CHUNK_BYTES: Final = 2 * 1024**2
SHARE: Final = 8
"""The divisor by which the free budget limits the size of a chunk.

Chunks are large while there are few downloads, and small while there are many.
"""
READ_SECONDS: Final = 10.0
PAUSE_SECONDS: Final = 10.0
RESUME_DELAYS: Final = (0.1, 0.3, 1.0, 3.0, 5.0)

log = structlog.get_logger()


class DownloadBuffers(Budget):
    """The budget of all downloads of one process. A download never waits for memory."""

    def __init__(self, size_bytes: int) -> None:
        super().__init__(size_bytes, name="download")
        self.reserve = size_bytes // 2

    @property
    def has_plenty(self) -> bool:
        return self.bytes_left > self.reserve

    def lend(self, wanted: int) -> int:
        """Take one chunk from the budget and return its size.

        The smallest chunk is granted even when the budget is exhausted, so that no download waits
        for another.
        """
        size = max(SMALLEST_CHUNK_BYTES, min(LARGEST_CHUNK_BYTES, self.bytes_left // SHARE))
        size = min(size, wanted)
        self.bytes_left -= size
        return size


class Source:
    """The connection of one download to the store, for use from threads.

    A lock admits one thread at a time. Closing waits for a read that is in progress.
    """

    def __init__(self, vault: Bucket, file: ProvedFile, span: Span | None) -> None:
        self.vault = vault
        self.key = str(file.minio_object_name)
        self.etag = file.vault_etag
        self.position = span.start if span else 0
        self.end = span.start + span.length if span else file.size
        self.whole = span is None
        self.reader: ObjectReader | None = None
        self.closed = False
        self.lock = threading.Lock()

    @property
    def left(self) -> int:
        return self.end - self.position

    def open(self) -> None:
        with self.lock:
            self._open()

    def read(self, size: int) -> bytes:
        """Read the next bytes, at most `size`. Raises StoreError.

        After an error, the reader is closed and the position is unchanged, so that the read can be
        repeated.
        """
        with self.lock:
            try:
                chunk = self._open().read(size)
            except StoreError:
                self._let_go()
                raise
            self.position += len(chunk)
            if self.left == 0:
                self._let_go()  # a connection that was read to its end is used again
            return chunk

    def let_go(self) -> None:
        """Close the connection to the store. The next read opens another."""
        with self.lock:
            self._let_go()

    def close(self) -> None:
        """Close the connection to the store, and refuse every later read."""
        self.closed = True
        self.let_go()

    def _open(self) -> ObjectReader:
        if self.closed:
            raise StoreUnavailable("this download was closed")
        if self.reader is None:
            from_start = self.whole and self.position == 0
            self.reader = self.vault.open(
                self.key,
                etag=self.etag,
                offset=self.position,
                length=None if from_start else self.left,
                timeout_seconds=READ_SECONDS,
            )
        return self.reader

    def _let_go(self) -> None:
        if self.reader is not None:
            self.reader.close()
            self.reader = None


class Body:
    """An ASGI application that sends the headers and then the bytes of `source`.

    It runs step 4 of the protocol above.
    """

    def __init__(
        self,
        downloads: DownloadBuffers,
        source: Source | None,
        permit: Permit,
        *,
        status: int,
        headers: dict[str, str],
    ) -> None:
        self.downloads = downloads
        self.source = source
        self.permit = permit
        self.status = status
        self.headers = headers
        self.lent = 0

    async def __call__(self, _: Scope, receive: Receive, send: Send) -> None:
        try:
            await self.start(send)
            if self.source is None or self.source.left == 0:
                await send({"type": "http.response.body", "body": b"", "more_body": False})
            else:
                with self.permit.registered():
                    await self.stream(self.source, receive, send)
        finally:
            if self.source is not None:
                self.downloads.threads.submit(self.source.close)

    async def start(self, send: Send) -> None:
        encoded = [
            (name.lower().encode(), value.encode("latin-1")) for name, value in self.headers.items()
        ]
        await send({"type": "http.response.start", "status": self.status, "headers": encoded})

    async def stream(self, source: Source, receive: Receive, send: Send) -> None:
        sending = asyncio.create_task(self.send_all(source, send))
        leaving = asyncio.create_task(wait_for_disconnect(receive))
        withdrawn = asyncio.create_task(self.permit.withdrawn.wait())
        tasks = {sending, leaving, withdrawn}
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            if sending.done():
                sending.result()
            elif withdrawn.done():
                log.info("download withdrawn", object=source.key, position=source.position)
        except StoreError as error:
            # The announced length is not reached, so the server drops the client's connection.
            log.error(  # noqa: TRY400  # a traceback adds nothing
                "download interrupted",
                object=source.key,
                position=source.position,
                error=str(error),
            )
        finally:
            await stop(*tasks)

    async def send_all(self, source: Source, send: Send) -> None:
        """Send chunk after chunk.

        While enough memory is free, the next chunk is read as the client receives the current one.
        """
        try:
            while source.left:
                if not self.downloads.has_plenty:
                    await self.drain(source, send)
                    self.give_back(self.lent)
                size = self.downloads.lend(source.left)
                self.lent += size
                chunk = await read_chunk(self.downloads, source, size)
                await self.drain(source, send)
                self.give_back(self.lent - len(chunk))
                await send({"type": "http.response.body", "body": chunk, "more_body": True})
                del chunk
            await self.drain(source, send)
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        finally:
            self.give_back(self.lent)

    async def drain(self, source: Source, send: Send) -> None:
        """Wait until the memory of the last chunk can be released.

        The server accepts an empty piece only when the transport's buffer is almost empty. After
        PAUSE_SECONDS, the connection to the store is closed meanwhile.
        """
        pausing = asyncio.get_running_loop().call_later(
            PAUSE_SECONDS, self.downloads.threads.submit, source.let_go
        )
        try:
            await send({"type": "http.response.body", "body": b"", "more_body": True})
        finally:
            pausing.cancel()

    def give_back(self, size: int) -> None:
        self.lent -= size
        self.downloads.give_back(size)


class Download(Response[None]):
    """A response that streams `source`, or has no body if `source` is None."""

    def __init__(
        self,
        downloads: DownloadBuffers,
        source: Source | None,
        permit: Permit,
        *,
        status: int,
        headers: dict[str, str],
    ) -> None:
        super().__init__(None, status_code=status, headers=headers)
        self.body = Body(downloads, source, permit, status=status, headers=headers)

    def to_asgi_response(self, *_: object, **__: object) -> Any:
        """Return the ASGI application that Litestar calls to send the response."""
        return self.body


async def find_readable(resources: Resources, file_id: UUID, *, owner: str | None) -> ProvedFile:
    """Return the owner's file if its bytes can be read.

    Raises NotFound, NotReady, FileRejected, FileDamaged and FileGone.
    """
    file = await find_file(resources, file_id, owner=owner)
    if isinstance(file, ProvedFile) and file.state == State.READY:
        return file
    state = str(file.state)
    if file.state in UNPROVED:
        raise problems.NotReady(
            f"the file is {state}: its bytes are not proved yet",
            headers={"Retry-After": "1"},
            state=state,
        )
    if file.state == State.REJECTED:
        raise problems.FileRejected(
            file.rejection_detail or "", state=state, reason=str(file.rejection_reason)
        )
    if file.state == State.DAMAGED:
        raise problems.FileDamaged(state=state)
    raise gone(file)


async def open_source(
    resources: Resources, downloads: DownloadBuffers, file: ProvedFile, span: Span | None
) -> Source:
    """Open the vault object (step 3 of the protocol above).

    Raises FileDamaged, StoreError, and the problems of `find_readable` if the file's state has
    changed.
    """
    try:
        return await open_object(resources, downloads, file, span)
    except (ObjectMissing, ObjectChanged) as error:
        current = await find_readable(resources, file.id, owner=None)
        if is_replaced(current, file):
            with contextlib.suppress(ObjectMissing, ObjectChanged):
                return await open_object(resources, downloads, current, span)
        await request_check(resources, current)
        raise problems.FileDamaged(
            "the object of the file is missing from the store, or was altered there",
            state=str(current.state),
        ) from error


def is_replaced(current: ProvedFile, file: ProvedFile) -> bool:
    """Return whether the row names another object than when it was read first."""
    return (current.minio_object_name, current.vault_etag) != (
        file.minio_object_name,
        file.vault_etag,
    )


async def open_object(
    resources: Resources, downloads: DownloadBuffers, file: ProvedFile, span: Span | None
) -> Source:
    source = Source(resources.vault, file, span)
    try:
        await downloads.run(source.open)
    except asyncio.CancelledError:
        downloads.threads.submit(source.close)
        raise
    return source


async def request_check(resources: Resources, file: ProvedFile) -> None:
    """Make the file due for the scrub. If the database is unavailable, the usual check follows."""
    try:
        await scrubbing.request_check(resources.pool, file.id, file.minio_object_name)
    except database.UNREACHABLE as error:
        log.warning("check not requested", file_id=str(file.id), error=type(error).__name__)


async def read_chunk(downloads: DownloadBuffers, source: Source, size: int) -> bytes:
    """Read the next chunk, and repeat the read after each of RESUME_DELAYS if the store fails.

    Raises StoreError if the last attempt fails, or if the object is missing or has changed.
    """
    for delay in RESUME_DELAYS:
        try:
            return await downloads.run(source.read, size)
        except StoreUnavailable as error:
            log.warning(
                "download resumed",
                object=source.key,
                position=source.position,
                error=str(error),
                retry_seconds=delay,
            )
            STORE_RETRIES.inc()
        await asyncio.sleep(delay)
    return await downloads.run(source.read, size)
