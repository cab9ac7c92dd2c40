"""One object's bytes on their way out of the store, read by the caller's own thread."""

from http.client import HTTPException
from typing import Final

import urllib3
from urllib3.exceptions import HTTPError

from service.object_store.errors import StoreUnavailable, unavailable

FAILURES: Final = (HTTPError, HTTPException, OSError)


class ObjectReader:
    """The body of one answer. Close it: an unread rest costs the connection, a body read to its end gives it back."""

    def __init__(self, response: urllib3.BaseHTTPResponse, *, request: str, partial: bool) -> None:
        """Raises StoreUnavailable when the answer is not the range that was asked for."""
        self._response = response
        # Below urllib3: nothing is decoded (a client may have said `Content-Encoding: gzip`), and nothing is copied from buffer to buffer.
        self._body = response._fp  # type: ignore[attr-defined] # http.client's response
        self._request = request
        self.etag = response.headers.get("etag", "").strip('"')
        self.content_length = int(response.headers.get("content-length", "-1"))
        """Bytes that this reader will give."""
        self.remaining = self.content_length
        if self.content_length < 0 or response.status != (206 if partial else 200):
            self.close()
            raise StoreUnavailable(
                f"{request}: an answer without a length, or without regard to the range",
                status=response.status,
            )

    def read(self, size: int) -> bytes:
        """Up to `size` bytes, b"" at the end. Raises StoreUnavailable when the store pauses for too long or the body is cut short."""
        if self.remaining == 0:
            return b""
        try:
            chunk: bytes = self._body.read(min(size, self.remaining))
        except FAILURES as error:
            raise unavailable(self._request, error) from error
        if not chunk:
            raise StoreUnavailable(
                f"{self._request}: cut short, {self.remaining} bytes were still to come"
            )
        self.remaining -= len(chunk)
        return chunk

    def close(self) -> None:
        if self.remaining == 0:
            self._body.close()  # http.client takes an empty body for unread, and the connection for busy, until somebody says so
        else:
            self._response.close()
        self._response.release_conn()

    def __enter__(self) -> "ObjectReader":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
