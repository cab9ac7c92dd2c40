"""Single HTTP requests, sent by urllib3.

urllib3's own retries and redirects are disabled, because only the caller can tell which requests
may be repeated. A response that arrives before the whole body was sent is read nevertheless.
(urllib3 does that after EPIPE and ECONNRESET.)
"""

import threading
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

import msgspec

from assay.errors import ServerUnavailable

if TYPE_CHECKING:  # the import takes 50 ms, which `assay --help` avoids
    from urllib3 import BaseHTTPResponse, PoolManager

PIECE: Final = 1024 * 1024
"""The number of bytes that are read or written in one call."""
CONNECT_SECONDS: Final = 10.0

Body = bytes | Iterable[memoryview] | Iterable[bytes] | None


class ConnectionLost(Exception):
    """A request without a complete response.

    The connection failed, or ended too early. The request may or may not have taken effect.
    """


class Answer(msgspec.Struct, frozen=True):
    """A response with its whole body. The names of `headers` are in lower case."""

    status: int
    headers: dict[str, str]
    body: bytes


class Transport:
    """Connections to the API and to the store, shared by all threads."""

    def __init__(self, *, connections: int, timeout: float) -> None:
        self._connections = connections
        self._timeout = timeout
        self._lock = threading.Lock()
        self._pools: PoolManager | None = None

    @property
    def pools(self) -> "PoolManager":
        with self._lock:
            if self._pools is None:
                from assay.connections import make_pools

                self._pools = make_pools(connections=self._connections)
            return self._pools

    def send(
        self,
        method: str,
        url: str,
        *,
        headers: Mapping[str, str],
        body: Body = None,
        chunked: bool = False,
        extra_seconds: float = 0.0,
    ) -> Answer:
        """Send a request and return the whole response. Raises ConnectionLost."""
        response = self.open(
            method, url, headers=headers, body=body, chunked=chunked, extra_seconds=extra_seconds
        )
        try:
            content = read_some(response, None)
        finally:
            response.release_conn()
        return Answer(
            response.status,
            {name.lower(): value for name, value in response.headers.items()},
            content,
        )

    def open(
        self,
        method: str,
        url: str,
        *,
        headers: Mapping[str, str],
        body: Body = None,
        chunked: bool = False,
        extra_seconds: float = 0.0,
    ) -> "BaseHTTPResponse":
        """Send a request and return the head of the response.

        The caller reads the body with `read_some`, and releases the connection. Raises
        ConnectionLost, and ServerUnavailable if the server's certificate is not trusted.
        """
        from urllib3 import Timeout
        from urllib3.exceptions import HTTPError, SSLError

        timeout = Timeout(connect=CONNECT_SECONDS, read=self._timeout + extra_seconds)
        try:
            return self.pools.urlopen(
                method,
                url,
                headers=dict(headers),
                body=body,
                chunked=chunked,
                redirect=False,
                timeout=timeout,
                preload_content=False,
                decode_content=False,
            )
        except SSLError as error:
            if "CERTIFICATE_VERIFY_FAILED" in str(error):  # a retry would fail in the same way
                raise ServerUnavailable(
                    f"{place(url)}: its certificate is not trusted ({error})"
                ) from error
            raise ConnectionLost(describe(url, error)) from error
        except (HTTPError, OSError) as error:
            raise ConnectionLost(describe(url, error)) from error

    def close(self) -> None:
        with self._lock:
            pools, self._pools = self._pools, None
        if pools is not None:
            pools.clear()


def read_some(response: "BaseHTTPResponse", size: int | None) -> bytes:
    """Return at most `size` bytes of the response's body, or all of it if `size` is None.

    Return b"" at the end. Raises ConnectionLost if the connection ends too early.
    """
    from urllib3.exceptions import HTTPError

    try:
        return response.read(size)
    except (HTTPError, OSError) as error:
        raise ConnectionLost(
            f"the connection was closed in the middle of a response ({type(error).__name__})"
        ) from error


def place(url: str) -> str:
    """Return the host and port of a URL, for messages. The path and query may contain secrets."""
    return urlsplit(url).netloc.rpartition("@")[2]


def describe(url: str, error: Exception) -> str:
    reason = error.__cause__ or error.__context__ or error
    return (
        f"{place(url)} does not answer ({type(error).__name__}: "
        f"{getattr(reason, 'strerror', None) or type(reason).__name__})"
    )
