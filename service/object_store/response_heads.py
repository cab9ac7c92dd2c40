"""Heads of the store's responses, reduced to the fields that the service reads."""

import io
from http.client import HTTPException, HTTPResponse
from typing import Final

LARGEST_HEAD_BYTES: Final = 1024 * 1024
FIELDS_READ: Final = frozenset(
    {
        b"connection",
        b"content-length",
        b"content-range",
        b"content-type",
        b"date",
        b"etag",
        b"keep-alive",
        b"last-modified",
        b"location",
        b"retry-after",
        b"server",
        b"transfer-encoding",
        b"x-amz-bucket-region",
        b"x-amz-request-id",
        b"x-amz-version-id",
        b"x-minio-error-code",
        b"x-minio-error-desc",
    }
)
"""The response fields that this package, the SDK or `http.client` reads, in lower case."""
OWN_METADATA: Final = b"x-amz-meta-assay-"
"""The prefix of the metadata that Assay itself writes to an object."""


class HeadReader:
    """The head of one response, reduced to its status line and the fields in FIELDS_READ.

    `http.client` refuses a response with more than 100 fields or a line of more than 64 KiB. A
    client can give its object any number of `x-amz-meta-*` fields, and the store repeats them in
    each response about the object. Fields that are not read are therefore skipped before
    `http.client` reads them.
    """

    def __init__(self, lines: io.BufferedIOBase) -> None:
        self._lines = lines
        self._left = LARGEST_HEAD_BYTES
        self._in_field = False

    def readline(self, limit: int | None = -1, /) -> bytes:
        """Return the next line that is not skipped, or the empty line that ends the head."""
        while True:
            line = self._read_line()
            if is_head_line_read(line, in_field=self._in_field):
                self._in_field = True
                return line if limit is None or limit < 0 else line[:limit]
            self._in_field = False

    def _read_line(self) -> bytes:
        line = self._lines.readline(self._left)
        self._left -= len(line)
        if self._left <= 0:
            raise HTTPException(
                f"the head of the response is larger than {LARGEST_HEAD_BYTES} bytes"
            )
        return line

    def close(self) -> None:
        self._lines.close()


def is_head_line_read(line: bytes, *, in_field: bool) -> bool:
    """Return whether `http.client` needs the line. `in_field` says whether it got the last one."""
    if line in (b"", b"\n", b"\r\n") or line.startswith(b"HTTP/"):
        return True
    if line[:1] in b" \t":  # the continuation of a field (RFC 9112, section 5.2)
        return in_field
    return is_field_read(line.partition(b":")[0].strip().lower())


def is_field_read(name: bytes) -> bool:
    """Return whether a field is read. `name` is in lower case."""
    return name in FIELDS_READ or name.startswith(OWN_METADATA)


class StoreResponse(HTTPResponse):
    def begin(self) -> None:
        if self.headers is not None:
            return
        body = self.fp
        self.fp = HeadReader(body)
        try:
            super().begin()
        finally:
            if self.fp is not None:  # otherwise http.client has closed it
                self.fp = body
