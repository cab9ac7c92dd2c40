"""The sending of files, several at once (worker_pool.py).

1. At most LARGE_AT_ONCE large files are sent at once, because each of them sends several parts at
   once.
2. A file with a path follows the protocol of the records (records.py): it is skipped if the server
   has it, and continued if it was begun. For a large file, the client also keeps a journal beside
   the records, so that it repeats no part that was sent. If the recorded key leads to a file that
   was rejected, has expired or was deleted, the file is sent once more with a new key. The same
   happens if the key was used for another declaration: the one with or without the file's time.
3. A small file goes through the API: one request instead of three, and no copy at the store. If an
   earlier run did not record its completion, the server is first searched for a file of the same
   name, digest and metadata.
4. A pipe goes through the API too. It cannot be read again, so nothing is recorded. Ctrl-C also
   ends the program that writes to the pipe, which looks like the pipe's end. Once the command was
   stopped, no end is passed on, and a file that was created nevertheless is deleted.
"""

import hashlib
import io
import os
import sys
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Final, cast

from service.cli.client.arguments import read_unicode
from service.cli.client.display import show, show_size
from service.cli.client.exit_codes import Failed
from service.cli.client.folders import Pipe, Source
from service.cli.client.listings import KEPT, as_object
from service.cli.client.records import Parcel, Record, Records
from service.cli.client.reports import Report
from service.cli.client.types import guess_type
from service.cli.client.worker_pool import Stopped, WorkerPool
from service.cli.standard_streams import wait_until_ready

if TYPE_CHECKING:
    from assay import Client, File, Progress

SMALL_BYTES: Final = 64 * 1024
LARGE_BYTES: Final = 32 * 1024**2
LARGE_AT_ONCE: Final = 2
TOGETHER_SECONDS: Final = 0.2
"""The time within which both ends of a pipe have seen one Ctrl-C."""
WATCHED_BYTES: Final = 1024**2
"""The size from which a file gets a bar. A smaller file is sent before its bar could be read."""


@dataclass(frozen=True)
class UploadOptions:
    """The options for every file. `filename` and `sha256` are allowed for a single file only."""

    filename: str | None = None
    content_type: str | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)
    sha256: str | None = None
    force: bool = False
    times: bool = True


class Sender:
    """A sender of the files that are passed to its pool."""

    def __init__(
        self,
        client: "Client",
        records: Records,
        report: Report,
        *,
        options: UploadOptions,
        jobs: int,
    ) -> None:
        self._client = client
        self._records = records
        self._report = report
        self._options = options
        self._large = threading.Semaphore(LARGE_AT_ONCE)
        self.pool: WorkerPool[Source | Pipe] = WorkerPool(
            self._send, report, name=name_source, jobs=jobs
        )

    def _send(self, source: Source | Pipe) -> None:
        outcome, file = (
            self._send_pipe(source) if isinstance(source, Pipe) else self._send_path(source)
        )
        name, size = name_source(source), show_size(file.size)
        about = {"source": name, "outcome": outcome, "file": as_object(file)}
        self.pool.succeed(
            f"{file.id}  {size:>8}  {show(name)}{'' if outcome == 'sent' else '  (already sent)'}",
            about,
        )

    def _send_path(self, source: Source) -> "tuple[str, File]":
        """Send a file with a path (steps 2 and 3 of the protocol above)."""
        parcel = self._describe(source)
        known = self._records.find(parcel)
        if (
            known is not None
            and not self._options.force
            and (there := self._find_there(parcel, known)) is not None
        ):
            self._report.count(parcel.size)
            return "skipped", there
        begun = known is not None and known.file_id is None and not self._options.force
        record = known if known is not None and begun else self._records.begin(parcel, known)
        file = (
            self._send_small(parcel, begun=begun)
            if parcel.size <= SMALL_BYTES
            else self._send_recorded(parcel, record, begun=begun)
        )
        self._records.finish(parcel, file_id=str(file.id), sha256=file.hash or "")
        return "sent", file

    def _describe(self, source: Source) -> Parcel:
        path = os.path.realpath(source.path)
        found = os.stat(path)
        name = check_unicode(self._options.filename or os.path.basename(source.path))
        metadata = dict(self._options.metadata) | (
            {KEPT: check_unicode(source.kept)} if source.kept else {}
        )
        content_type = self._options.content_type or guess_type(name)
        return Parcel(
            self._client.url,
            path,
            found.st_size,
            found.st_mtime_ns,
            name,
            content_type,
            metadata,
            self._options.sha256,
        )

    def _find_there(self, parcel: Parcel, record: Record) -> "File | None":
        """Return the file at the server that this one was sent as, or None if
        it no longer matches.
        """
        from assay.errors import Gone, NotFound
        from assay.times import is_sent_as

        if record.file_id is None:
            return None
        try:
            file = self._client.info(record.file_id)
        except (NotFound, Gone):
            return None
        same = (file.filename, file.size, file.hash) == (
            parcel.filename,
            parcel.size,
            record.sha256,
        ) and is_sent_as(file.metadata, parcel.metadata)
        return file if same and file.state == "ready" else None

    def _send_small(self, parcel: Parcel, *, begun: bool) -> "File":
        """Send a small file through the API, unless an earlier run has sent it.

        Raises SourceChanged, and the errors of a request.
        """
        file = self._find_same(parcel) if begun else None
        if file is None:
            file = self._client.upload(
                parcel.path,
                filename=parcel.filename,
                content_type=parcel.content_type,
                metadata=parcel.metadata,
                sha256=parcel.sha256,
                keep_time=self._options.times,
                through_api=True,
            )
        self._report.count(parcel.size)
        return file

    def _find_same(self, parcel: Parcel) -> "File | None":
        """Return a file at the server that an earlier run may have sent without reading the
        response, or None.
        """
        from assay.errors import Forbidden
        from assay.times import is_sent_as

        with open(parcel.path, "rb") as opened:
            digest = hashlib.file_digest(opened, "sha256").hexdigest()
        found = self._client.list(state="ready", hash=digest, filename=parcel.filename)
        try:
            return next(
                (
                    file
                    for file in found
                    if file.filename == parcel.filename
                    and is_sent_as(file.metadata, parcel.metadata)
                ),
                None,
            )
        except Forbidden:  # the key has only the scope `write`
            return None

    def _send_recorded(self, parcel: Parcel, record: Record, *, begun: bool) -> "File":
        from assay.errors import Gone, KeyReused, Rejected, UploadLost

        try:
            return self._upload(parcel, record)
        except (Gone, KeyReused, Rejected, UploadLost):
            self._records.forget(parcel)
            if not begun:
                raise
        return self._upload(parcel, self._records.begin(parcel))

    def _upload(self, parcel: Parcel, record: Record) -> "File":
        """Upload the file.

        One that is neither small nor large is sent again from its start, so it has no journal.
        """
        if parcel.size < WATCHED_BYTES:
            file = self._upload_now(parcel, record, progress=None)
            self._report.count(parcel.size)
            return file
        if parcel.size < LARGE_BYTES:
            return self.pool.watch(
                parcel.filename,
                parcel.size,
                lambda progress: self._upload_now(parcel, record, progress=progress),
            )
        with self._large:
            return self.pool.watch(
                parcel.filename,
                parcel.size,
                lambda progress: self._upload_large(parcel, record, progress=progress),
            )

    def _upload_large(
        self, parcel: Parcel, record: Record, *, progress: "Callable[[Progress], None]"
    ) -> "File":
        """Upload a large file, continuing from the client's journal unless that is about other
        bytes.
        """
        from assay.errors import SourceChanged

        try:
            return self._upload_now(parcel, record, progress=progress, resume=self._records.uploads)
        except SourceChanged as error:
            if error.state is None:  # the file changes while it is sent
                raise
        self._report.note(
            f"{show(parcel.path)}: the file has changed since its upload began; it is sent again"
        )
        return self._upload_now(
            parcel, record, progress=progress, resume=self._records.uploads, restart=True
        )

    def _upload_now(
        self,
        parcel: Parcel,
        record: Record,
        *,
        progress: "Callable[[Progress], None] | None",
        resume: Path | None = None,
        restart: bool = False,
    ) -> "File":
        return self._client.upload(
            parcel.path,
            filename=parcel.filename,
            content_type=parcel.content_type,
            metadata=parcel.metadata,
            sha256=parcel.sha256,
            keep_time=self._options.times,
            progress=progress,
            idempotency_key=record.idempotency_key,
            resume=resume,
            restart=restart,
        )

    def _send_pipe(self, pipe: Pipe) -> "tuple[str, File]":
        """Send a pipe (step 4 of the protocol above). Raises Stopped."""
        name = check_unicode(self._options.filename or "stdin")
        with Tap(open_pipe(pipe), self.pool) as stream:
            file = self.pool.watch(
                name,
                None,
                lambda progress: self._client.upload(
                    cast("BinaryIO", stream),
                    filename=name,
                    content_type=self._options.content_type or guess_type(name),
                    metadata=self._options.metadata,
                    sha256=self._options.sha256,
                    progress=progress,
                ),
            )
        try:
            self.pool.check()
        except Stopped:
            self._client.delete(file.id)
            raise
        return "sent", file


class Tap(io.RawIOBase):
    """A stream of the bytes of a pipe, which ends with Stopped when the pool is stopped."""

    def __init__(self, descriptor: int, pool: WorkerPool[Source | Pipe]) -> None:
        self._descriptor = descriptor
        self._pool = pool

    def read(self, size: int = -1, /) -> bytes:
        while (piece := self._read_some(size)) is None:
            wait_until_ready(self._descriptor, writing=False, seconds=TOGETHER_SECONDS)
            self._pool.check()
        self._pool.check(seconds=0.0 if piece else TOGETHER_SECONDS)
        return piece

    def _read_some(self, size: int) -> bytes | None:
        """Return None if the pipe is non-blocking and has no bytes yet."""
        try:
            return os.read(self._descriptor, max(size, 0))
        except BlockingIOError:
            return None

    def close(self) -> None:
        if not self.closed:
            os.close(self._descriptor)
        super().close()


def name_source(source: Source | Pipe) -> str:
    return source.path or "standard input"


def open_pipe(pipe: Pipe) -> int:
    """Return a descriptor of the pipe, which the caller closes. Raises OSError."""
    return os.dup(sys.stdin.fileno()) if pipe.path is None else os.open(pipe.path, os.O_RDONLY)


def check_unicode(name: str) -> str:
    try:
        return read_unicode(name)
    except UnicodeError as error:
        raise Failed("its name is not UTF-8; give another name with --name") from error
