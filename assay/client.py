"""The client: what a program does with files."""

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from datetime import datetime
from types import TracebackType
from typing import Any, Final, Self

from assay.api import Api
from assay.downloads import Writable, download_file
from assay.files import File, FileId, Link, read_id
from assay.journals import Journal, open_journal
from assay.progress import Meter, Report
from assay.sendings import Hash, Sending, UploadOptions
from assay.sources import Readable, Source, Stream, open_source, read_in_order
from assay.streams import upload_stream
from assay.transport import Transport
from assay.uploads import upload_source, wait_until_final

DEFAULT_URL: Final = "http://127.0.0.1:8000"
CONNECTIONS_BESIDE: Final = 28
"""Kept to one server, for threads that share a client."""


class Client:
    """An Assay server, as one API key sees it. Threads may share it.

    `url` is ASSAY_URL's value or http://127.0.0.1:8000 when it is not given, `key` is ASSAY_KEY's. `parallel`: parts of one upload that
    are sent at once. `timeout`: seconds of silence after which a connection is given up. `retry_seconds`: for how long a server that is
    away is asked again before ServerUnavailable is raised. `connections`: how many are kept to one server, for more threads than parts.
    """

    def __init__(
        self,
        url: str | None = None,
        key: str | None = None,
        *,
        parallel: int = 4,
        timeout: float = 60.0,
        retry_seconds: float = 120.0,
        connections: int | None = None,
    ) -> None:
        self.url = (url or os.environ.get("ASSAY_URL") or DEFAULT_URL).rstrip("/")
        if not self.url.startswith(("http://", "https://")):
            raise ValueError(f"url: expected http://… or https://…, not {self.url!r}")
        key = key or os.environ.get("ASSAY_KEY") or None
        if key is not None and not (key.isascii() and key.isprintable() and " " not in key):
            raise ValueError("key: expected a word of ASCII characters")
        if parallel < 1:
            raise ValueError("parallel: expected 1 or more")
        self.parallel = parallel
        self._transport = Transport(
            connections=connections or parallel + CONNECTIONS_BESIDE, timeout=timeout
        )
        self._api = Api(self._transport, self.url, key, retry_seconds=retry_seconds)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections. The client may be used again."""
        self._transport.close()

    def upload(
        self,
        source: Readable,
        *,
        filename: str | None = None,
        content_type: str | None = None,
        metadata: Mapping[str, str] | None = None,
        sha256: str | None = None,
        multipart: bool | None = None,
        hash: Hash = "auto",
        wait: bool = True,
        timeout: float | None = None,
        progress: Report | None = None,
        resume: str | os.PathLike[str] | None = None,
        restart: bool = False,
        idempotency_key: str | None = None,
        through_api: bool = False,
    ) -> File:
        """Send a path, a binary file object (from where it stands) or bytes, and wait until the server has proved it.

        `filename`: the source's own name, or "upload". `content_type`: not declared, so not compared. `sha256`: the digest if it is known
        already; nothing is hashed then. `multipart`: None lets the server choose by size. `wait` False returns as soon as the bytes are at
        the store. `timeout`: seconds to wait for the proof; None: as long as it takes.

        `hash`: see `assay.sendings.Hash`. `resume`: a file that keeps the upload's state until it is final, or an existing folder of such
        files (one for each server and path): after whatever ended this run, the same call goes on where it was. `restart` forgets that
        state, as one must when SourceChanged was raised and the file's present bytes are the wanted ones.

        `idempotency_key`: a second upload with the same one, within a day, goes on with the file of the first; with other fields it is an
        InvalidRequest. `resume` keeps one by itself.

        A pipe or another stream cannot be read twice: it is sent through the API in one request, and nothing of it can be resumed.
        `through_api` sends everything so: the soonest way for small files, but a lost answer leaves it open whether the file is there.

        Raises Rejected, SourceChanged, SourceUnreadable, StoreRefused, UploadLost, InProgress, TooLarge, NotFinal, ServerUnavailable and
        what any request raises.
        """
        opened = open_source(source)
        try:
            name = filename or opened.name
            if isinstance(opened, Stream) or through_api:
                return upload_stream(
                    self._api,
                    opened.read if isinstance(opened, Stream) else read_in_order(opened),
                    filename=name,
                    content_type=content_type,
                    metadata=metadata or {},
                    sha256=sha256,
                    meter=Meter(progress, None),
                )
            options = UploadOptions(
                filename=name,
                content_type=content_type,
                metadata=metadata or {},
                sha256=sha256.lower() if sha256 else None,
                multipart=multipart,
                hash=hash,
                parallel=self.parallel,
            )
            with self._open_journal(
                opened, options, resume, restart=restart, key=idempotency_key
            ) as journal:
                sending = Sending(
                    self._api, opened, options, journal=journal, meter=Meter(progress, opened.size)
                )
                return upload_source(sending, wait=wait, timeout=timeout)
        finally:
            opened.close()

    def _open_journal(
        self,
        source: Source,
        options: UploadOptions,
        resume: str | os.PathLike[str] | None,
        *,
        restart: bool,
        key: str | None,
    ) -> closing[Journal]:
        fields = options.fields(source.size)
        if resume is None:
            return closing(Journal.in_memory(self.url, fields, key=key))
        return closing(
            open_journal(resume, self.url, fields, source=source, restart=restart, key=key)
        )

    def download(self, file: FileId, target: Writable, *, progress: Report | None = None) -> File:
        """Receive a `ready` file, its SHA-256 checked, to a path or into a writable binary file object (from where it stands).

        A path shows the whole file or what was there before. What a killed run received of it lies beside it, hidden, and is gone on from.

        Raises NotReady, Rejected, Gone, NotFound, FileChanged, DigestMismatch, TargetFailed, InProgress, ServerUnavailable.
        """
        found = self.info(file)
        download_file(self._api, found, target, meter=Meter(progress, found.size))
        return found

    def list(
        self,
        *,
        state: str | Sequence[str] | None = None,
        filename: str | None = None,
        content_type: str | None = None,
        hash: str | None = None,
        created_after: datetime | None = None,
        created_before: datetime | None = None,
        owner: str | None = None,
        page: int = 1000,
    ) -> Iterator[File]:
        """The key's files, newest first, a page of at most `page` at a time. `state`: one, or any of several; None: all but expired and
        deleted. `filename` is exact, or `prefix*`; `owner` is for admins."""
        asked: dict[str, Any] = {
            "state": [state] if isinstance(state, str) else state,
            "filename": filename,
            "content_type": content_type,
            "hash": hash,
            "created_after": created_after and created_after.isoformat(),
            "created_before": created_before and created_before.isoformat(),
            "owner": owner,
            "limit": page,
        }
        filters = {
            name: value if isinstance(value, list | tuple) else str(value)
            for name, value in asked.items()
            if value is not None
        }
        while True:
            found = self._api.read_page(filters)
            yield from found.files
            if found.next is None:
                return
            filters["cursor"] = found.next

    def info(self, file: FileId) -> File:
        """What is known of a file. Raises NotFound."""
        return self._api.read_metadata(read_id(file))

    def wait(self, file: FileId, *, timeout: float | None = None) -> File:
        """The file when it is proved. Raises Rejected, Gone, NotFinal after `timeout` seconds, NotFound."""
        return wait_until_final(
            self._api, self.info(file), timeout=timeout, meter=Meter(None, None)
        )

    def delete(self, file: FileId) -> None:
        """Cancel or delete it, in any state. Raises NotFound."""
        self._api.delete(read_id(file))

    def share(self, file: FileId, *, expires_in: int, inline: bool = False) -> Link:
        """A link that works without a key, for `expires_in` seconds, at most 7 days. `inline` shows harmless types in the browser.

        Raises Forbidden for a key without the scope `read`: the link gives the bytes.
        """
        return self._api.make_link(
            read_id(file), expires_in=expires_in, disposition="inline" if inline else "attachment"
        )
