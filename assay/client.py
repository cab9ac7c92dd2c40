"""The class `Client`: uploads, downloads and manages files of one Assay server."""

import os
import re
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
from assay.streams import upload_again, upload_stream
from assay.times import add_time
from assay.transport import Transport
from assay.uploads import upload_source, wait_until_final

DEFAULT_URL: Final = "http://127.0.0.1:8000"
SHA256: Final = re.compile(r"[0-9A-Fa-f]{64}")
CONNECTIONS_BESIDE: Final = 28
"""Connections kept per server, in addition to one per part, for threads that share a client."""


class Client:
    """A connection to one Assay server with one API key. Threads may share it.

    - `url`: by default the value of ASSAY_URL, or http://127.0.0.1:8000 if that is not set.
    - `key`: by default the value of ASSAY_KEY.
    - `parallel`: the number of parts of one upload that are sent at the same time.
    - `timeout`: seconds without any progress after which a connection is closed.
    - `retry_seconds`: how long requests to an unavailable server are repeated before
      ServerUnavailable is raised.
    - `connections`: the number of connections kept open to one server. Raise it if more threads
      share the client than the default serves.

    Raises ValueError for an argument that is not valid.
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
            raise ValueError("key: expected printable ASCII characters without spaces")
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
        """Close the connections. The client opens new ones if it is used again."""
        self._transport.close()

    def upload(
        self,
        source: Readable,
        *,
        filename: str | None = None,
        content_type: str | None = None,
        metadata: Mapping[str, str] | None = None,
        sha256: str | None = None,
        keep_time: bool = False,
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
        """Upload a file, and return it when the server has proved it.

        `source` is a path, bytes, or a binary file object, which is read from its position on.

        - `filename`: by default the name of the source, or "upload" if it has none.
        - `content_type`: by default the declaration has no type, and none is compared.
        - `sha256`: the digest, if the caller knows it. The client then computes none, but for
          `hash="parts"`.
        - `keep_time`: add the modification time of a file on disk to its metadata, as `mtime`. An
          `mtime` in `metadata` takes precedence. See `assay.times`.
        - `multipart`: whether to upload in parts. If None, the server decides by the size.
        - `hash`: which digests the client computes; see `assay.sendings.Hash`.
        - `wait`: if False, the call returns as soon as the store has the bytes.
        - `timeout`: seconds to wait for the proof. If None, the wait has no limit.
        - `progress`: a function that is called with a `Progress`.
        - `resume`: the path of a file that keeps the state of the upload until the upload is
          final, or an existing folder of such files, one per server and path. If the upload is
          interrupted, the same call continues it.
        - `restart`: discard the state that `resume` has kept. This is needed if SourceChanged was
          raised and the present content of the file is to be uploaded.
        - `idempotency_key`: a second upload with the same key within a day continues with the
          file of the first. With other fields, it raises InvalidRequest. `resume` keeps a key of
          its own.
        - `through_api`: send the bytes through the API in one request. This is the fastest way
          for small files, but if the response is lost, the caller cannot tell whether the file was
          stored.

        A pipe or any other stream cannot be read twice. It is always sent through the API, and
        cannot be resumed. The same applies to a file whose size is not the number of its bytes, as
        in /proc.

        Raises ValueError if `sha256` is no SHA-256, and Rejected, SourceChanged, SourceUnreadable,
        StoreRefused, UploadLost, InProgress, TooLarge, NotFinal, ServerUnavailable, and the errors
        that any request raises.
        """
        if sha256 is not None and not SHA256.fullmatch(sha256):
            raise ValueError(f"sha256: expected 64 hexadecimal digits, not {sha256!r}")
        opened = open_source(source)
        try:
            name = filename or opened.name
            metadata = add_time(metadata or {}, opened) if keep_time else metadata or {}
            if isinstance(opened, Stream) or through_api:
                return upload_stream(
                    self._api,
                    opened.read if isinstance(opened, Stream) else read_in_order(opened),
                    filename=name,
                    content_type=content_type,
                    metadata=metadata,
                    sha256=sha256,
                    meter=Meter(progress, None),
                )
            options = UploadOptions(
                filename=name,
                content_type=content_type,
                metadata=metadata,
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

    def upload_again(
        self, file: FileId, source: Readable, *, progress: Report | None = None
    ) -> File:
        """Send the bytes of a damaged file again, and return the file when it is `ready`.

        `source` is as for `upload`. The bytes go through the API, and must be those that were
        proved. If the response is lost, call this again: AlreadyUploaded then says that the file is
        not damaged any more.

        Raises NotFound, Gone, Forbidden, InvalidRequest if the file is pending, AlreadyUploaded,
        DigestMismatch, SourceUnreadable, ServerUnavailable.
        """
        opened = open_source(source)
        try:
            read = opened.read if isinstance(opened, Stream) else read_in_order(opened)
            return upload_again(self._api, read_id(file), read, meter=Meter(progress, None))
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

    def download(
        self,
        file: FileId,
        target: Writable,
        *,
        keep_time: bool = False,
        progress: Report | None = None,
    ) -> File:
        """Download a `ready` file, check its SHA-256, and return its metadata.

        `target` is a path, or a writable binary file object, which is written from its position on.
        A path holds either the whole file or its previous content, never a part of the file.
        The bytes that an interrupted run has received stay in a hidden file beside the path, and
        the next run continues from them. With `keep_time`, a path gets the modification time that
        the metadata has as `mtime`. See `assay.times`.

        Raises NotReady, Rejected, Gone, NotFound, FileChanged, DigestMismatch, TargetFailed,
        InProgress, ServerUnavailable.
        """
        found = self.info(file)
        download_file(
            self._api, found, target, keep_time=keep_time, meter=Meter(progress, found.size)
        )
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
        """Yield the files of the key's owner, newest first, in requests of at most `page` files.

        - `state`: one state, or several. If None, all states except `expired` and `deleted`.
        - `filename`: an exact name, or a prefix followed by `*`.
        - `content_type`: a full media type. Files without a declared type are
          `application/octet-stream`.
        - `owner`: another owner. This needs a key of the scope `admin`.
        """
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
        """Return the metadata of a file. Raises NotFound."""
        return self._api.read_metadata(read_id(file))

    def wait(self, file: FileId, *, timeout: float | None = None) -> File:
        """Wait until a file is proved, and return its metadata.

        Raises Rejected, Gone or NotFound, and NotFinal if `timeout` seconds have passed.
        """
        return wait_until_final(
            self._api, self.info(file), timeout=timeout, meter=Meter(None, None)
        )

    def delete(self, file: FileId) -> None:
        """Delete a file in any state. An upload in progress is cancelled. Raises NotFound."""
        self._api.delete(read_id(file))

    def share(
        self, file: FileId, *, expires_in: int, inline: bool = False, embed: bool = False
    ) -> Link:
        """Return a link that downloads the file without a key for `expires_in` seconds.

        The limit is 7 days. With `inline`, a browser displays harmless types instead of saving
        them. With `embed`, pages of other origins may show the file, for example in `<img>`.
        Raises Forbidden for a key without the scope `read`, because the link gives access to the
        bytes.
        """
        return self._api.make_link(
            read_id(file),
            expires_in=expires_in,
            disposition="inline" if inline else "attachment",
            embed=embed,
        )
