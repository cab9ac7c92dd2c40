"""One HTTP request, once. urllib3 carries it; its own retries and redirects are off, because what may be repeated is ours to know.

An answer that comes before the whole body was sent is read all the same (urllib3 does that after EPIPE and ECONNRESET).
"""

import threading
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

import msgspec

from assay.errors import ServerUnavailable

if TYPE_CHECKING:  # 50 ms of import that `assay --help` need not wait for
    from urllib3 import BaseHTTPResponse, PoolManager

PIECE: Final = 1024 * 1024
"""Bytes that are read and written at once."""
CONNECT_SECONDS: Final = 10.0

Body = bytes | Iterable[memoryview] | Iterable[bytes] | None


class ConnectionLost(Exception):
    """No answer: the connection was not made, or ended before the answer did. Whether the request took effect is not known."""


class Answer(msgspec.Struct, frozen=True):
    """`headers` by their lower-case names."""

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
        """The whole answer. Raises ConnectionLost."""
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
        """Return the head of the answer. The caller reads the body by `read_some` and gives the connection back. Raises ConnectionLost."""
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
            if "CERTIFICATE_VERIFY_FAILED" in str(error):  # it will not become valid by itself
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
    """So many bytes of the answer, or all; b"" at its end. Raises ConnectionLost when it ends too early."""
    from urllib3.exceptions import HTTPError

    try:
        return response.read(size)
    except (HTTPError, OSError) as error:
        raise ConnectionLost(
            f"the connection ended in the middle of an answer ({type(error).__name__})"
        ) from error


def place(url: str) -> str:
    """What may be said of a URL: its path and query may be secrets."""
    return urlsplit(url).netloc.rpartition("@")[2]


def describe(url: str, error: Exception) -> str:
    reason = error.__cause__ or error.__context__ or error
    return f"{place(url)} does not answer ({type(error).__name__}: {getattr(reason, 'strerror', None) or type(reason).__name__})"
