"""A reader of the bytes of one object, for the caller's own thread."""

from http.client import HTTPException
from typing import Final

import urllib3
from urllib3.exceptions import HTTPError

from service.object_store.errors import StoreUnavailable, unavailable
from service.object_store.transport import read_headers

FAILURES: Final = (HTTPError, HTTPException, OSError)


class ObjectReader:
    """The body of one response, which the caller closes.

    After the whole body was read, `close` returns the connection to its pool. Otherwise it closes
    the connection.
    """

    def __init__(self, response: urllib3.BaseHTTPResponse, *, request: str, partial: bool) -> None:
        """Wrap `response`. Raises StoreUnavailable if it is not the range that was requested."""
        self._response = response
        # Read below urllib3, so that nothing is decoded (a client may have sent `Content-Encoding:
        # gzip`) and nothing is copied between buffers.
        self._body = response._fp  # type: ignore[attr-defined] # http.client's response
        self._request = request
        self.headers = read_headers(response)
        self.etag = response.headers.get("etag", "").strip('"')
        self.content_length = int(response.headers.get("content-length", "-1"))
        """Number of bytes that this reader returns in all."""
        self.remaining = self.content_length
        if self.content_length < 0 or response.status != (206 if partial else 200):
            self.close()
            raise StoreUnavailable(
                f"{request}: the response has no length, or is not the range that was requested",
                status=response.status,
            )

    def read(self, size: int) -> bytes:
        """Return up to `size` bytes, or b"" at the end.

        Raises StoreUnavailable if the store pauses for too long or the body is truncated.
        """
        if self.remaining == 0:
            return b""
        try:
            chunk: bytes = self._body.read(min(size, self.remaining))
        except FAILURES as error:
            raise unavailable(self._request, error) from error
        if not chunk:
            raise StoreUnavailable(
                f"{self._request}: the body was truncated and {self.remaining} bytes are missing"
            )
        self.remaining -= len(chunk)
        return chunk

    def close(self) -> None:
        if self.remaining == 0:
            # http.client does not recognise the end of an empty body, and keeps the connection busy
            # until the body is closed.
            self._body.close()
        else:
            self._response.close()
        self._response.release_conn()

    def __enter__(self) -> "ObjectReader":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
