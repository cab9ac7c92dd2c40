"""Downloads: a proved file's bytes, from the vault to a client that may be slow, may pause, may go away.

1. Read the row. Not `ready`: refused, as its state says.
2. Conditions, then the range, from the row alone. 304, 412 and 416 ask no store.
3. Open the vault object, with If-Match of the row's ETag, before any header is sent.
   - missing or another object: read the row again. Deleted meanwhile: gone. Still `ready`: an error, and nobody's but ours.
   - the store is away: 503.
4. Send the headers, then chunk after chunk. A chunk: lend memory from the process's one budget, read in a thread, send, wait until the
   transport holds all but nothing of it any more, give the memory back. A client that is waited for holds no thread, and a second chunk
   only while half of the budget is free.
   - the client does not drain a chunk for PAUSE_SECONDS: let go of the store's connection, which would cut it soon [and which holds up
     a DELETE meanwhile]; the next read opens another.
   - the store cuts, stalls or answers 5xx: open again at the byte where it stopped, with the same If-Match, after each of
     RESUME_DELAYS. A chunk that arrives sets the count of tries back.
   - the object went or changed, or the tries are used up: stop before the announced length, which makes the server drop the connection.
   - the client goes away: stop sending, close the store's connection when the thread that may be inside a read has left it.
"""

import asyncio
import threading
from typing import Any, Final
from uuid import UUID

import structlog
from litestar import Response
from litestar.types import Receive, Scope, Send

from service import problems
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
from service.resources import Resources
from service.telemetry.metrics import STORE_RETRIES

SMALLEST_CHUNK_BYTES: Final = 64 * 1024
LARGEST_CHUNK_BYTES: Final = 2 * 1024**2
SHARE: Final = 8
"""A download gets an eighth of what is left: big chunks when few download, small ones when many do."""
READ_SECONDS: Final = 10.0
PAUSE_SECONDS: Final = 10.0
RESUME_DELAYS: Final = (0.1, 0.3, 1.0, 3.0, 5.0)

log = structlog.get_logger()


class DownloadBuffers(Budget):
    """The budget of all downloads of one process. A download that takes memory is never made to wait."""

    def __init__(self, size_bytes: int) -> None:
        super().__init__(size_bytes, name="download")
        self.reserve = size_bytes // 2

    @property
    def has_plenty(self) -> bool:
        """Whether a download may hold a second chunk."""
        return self.bytes_left > self.reserve

    def lend(self, wanted: int) -> int:
        """Take one chunk from the budget and return its size.

        The smallest chunk is granted even when the budget is exhausted, so that no download waits for another.
        """
        size = max(SMALLEST_CHUNK_BYTES, min(LARGEST_CHUNK_BYTES, self.bytes_left // SHARE))
        size = min(size, wanted)
        self.bytes_left -= size
        return size


class Source:
    """The store's side of one download, used from threads: one is inside at a time, and a close waits until it has left."""

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
        """The next bytes, at most `size`. After an error the reader is gone and the position is where it was. Raises StoreError."""
        with self.lock:
            try:
                chunk = self._open().read(size)
            except StoreError:
                self._let_go()
                raise
            self.position += len(chunk)
            if self.left == 0:
                self._let_go()  # read to its end, the connection serves the next one
            return chunk

    def let_go(self) -> None:
        """Close the store's connection; the next read opens another."""
        with self.lock:
            self._let_go()

    def close(self) -> None:
        """For good: a read that comes late opens nothing."""
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
    """An ASGI application that sends the headers and then what `source` gives (step 4)."""

    def __init__(
        self,
        downloads: DownloadBuffers,
        source: Source | None,
        *,
        status: int,
        headers: dict[str, str],
    ) -> None:
        self.downloads = downloads
        self.source = source
        self.status = status
        self.headers = headers
        self.lent = 0

    async def __call__(self, _: Scope, receive: Receive, send: Send) -> None:
        try:
            await self.start(send)
            if self.source is None or self.source.left == 0:
                await send({"type": "http.response.body", "body": b"", "more_body": False})
            else:
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
        try:
            await asyncio.wait({sending, leaving}, return_when=asyncio.FIRST_COMPLETED)
            if sending.done():
                sending.result()
        except StoreError as error:
            # Nothing more is sent, and the announced length is not reached: the server drops the connection.
            log.error("download cut", object=source.key, position=source.position, error=str(error))  # noqa: TRY400  # the store failed, a traceback says nothing
        finally:
            await stop(sending, leaving)

    async def send_all(self, source: Source, send: Send) -> None:
        """Chunk after chunk; while there is memory to spare, the next one is read as the client takes this one."""
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
        """The server takes an empty piece only when the transport is all but empty: then the last chunk's memory is free."""
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
    """A response that is a stream of our own; `source` None: an answer without a body."""

    def __init__(
        self,
        downloads: DownloadBuffers,
        source: Source | None,
        *,
        status: int,
        headers: dict[str, str],
    ) -> None:
        super().__init__(None, status_code=status, headers=headers)
        self.body = Body(downloads, source, status=status, headers=headers)

    def to_asgi_response(self, *_: object, **__: object) -> Any:
        """Litestar's hook: what it returns is called with scope, receive and send."""
        return self.body


async def find_readable(resources: Resources, file_id: UUID, *, owner: str | None) -> ProvedFile:
    """The owner's file, if its bytes may be read. Raises NotFound, NotReady, FileRejected, FileDamaged, FileGone."""
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
    """Step 3. Raises FileGone, InternalError, StoreError."""
    source = Source(resources.vault, file, span)
    try:
        await downloads.run(source.open)
    except (ObjectMissing, ObjectChanged) as error:
        await find_readable(resources, file.id, owner=None)
        raise problems.InternalError(
            "the proved object is not where it should be at the store"
        ) from error
    except asyncio.CancelledError:
        downloads.threads.submit(source.close)
        raise
    return source


async def read_chunk(downloads: DownloadBuffers, source: Source, size: int) -> bytes:
    """The next chunk, however often the store cuts the way to it. Raises StoreError when the tries are used up."""
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
