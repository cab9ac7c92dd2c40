"""Connections to the store: time-outs and repeats by call, requests signed for one identity, answers turned into our errors."""

import io
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from http.client import HTTPException, HTTPResponse
from typing import Any, Final
from urllib.parse import urlunsplit
from weakref import WeakSet
from xml.etree import ElementTree as ET

import urllib3
from minio import Minio
from minio import time as sdk_time
from minio.helpers import DictType, sha256_hash
from minio.signer import sign_v4_s3
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.exceptions import HTTPError, ProtocolError
from urllib3.util import Timeout

from service.object_store.errors import SentTooLate, StoreError, StoreUnavailable, error_for_answer
from service.object_store.presign import parse_endpoint

CONNECT_SECONDS: Final = 5.0
CONNECTIONS_KEPT: Final = 128
"""More may be open at once; these stay open for the next call."""
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
"""The response fields that this package, the SDK or `http.client` looks at, in lower case."""
OWN_METADATA: Final = b"x-amz-meta-assay-"
"""What Assay itself writes beside an object's bytes."""
REPEATABLE: Final = frozenset({"GET", "HEAD", "DELETE"})
NOTHING_SHA256: Final = sha256_hash(None)


class Call:
    """What holds for one call: how long a wait may be, until when (`time.monotonic()`) it may be sent at all, and who is to know of it."""

    __slots__ = ("connections", "send_before", "timeout_seconds")

    def __init__(self, timeout_seconds: float, send_before: float | None) -> None:
        self.timeout_seconds = timeout_seconds
        self.send_before = send_before
        self.connections: Connections | None = None


class Connections:
    """All that are open, so that whoever waits at one can be let go. Safe to share between threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._open: WeakSet[HTTPConnection] = WeakSet()
        self._cut = False

    def add(self, connection: HTTPConnection) -> None:
        """Before a request goes over it. Raises StoreUnavailable after the cut."""
        with self._lock:
            if self._cut:
                raise StoreUnavailable("the way to the store was closed")
            self._open.add(connection)

    def cut(self) -> None:
        """For good: whatever thread sends or waits over one of them gets an error now."""
        with self._lock:
            self._cut = True
            sockets = [connection.sock for connection in self._open if connection.sock is not None]
        for one in sockets:
            with suppress(OSError):  # closed meanwhile
                socket.socket.shutdown(one, socket.SHUT_RDWR)  # below TLS, whose own shutdown another thread's read would trip over


# The SDK's calls take neither: the pool beneath them asks here. Set in the thread that makes the call, so calls never see each other's.
current_call: ContextVar[Call] = ContextVar("current_call")


@contextmanager
def calling(*, timeout_seconds: float, send_before: float | None = None) -> Iterator[None]:
    """Every request of this thread, until the block ends, has this time-out (for each wait on the socket) and this end."""
    token = current_call.set(Call(timeout_seconds, send_before))
    try:
        yield
    finally:
        current_call.reset(token)


def check_not_late() -> None:
    send_before = current_call.get().send_before
    if send_before is not None and time.monotonic() >= send_before:
        raise SentTooLate("the request's moment had passed before it was sent")


def begin_sending(connection: HTTPConnection) -> None:
    """Connecting takes time: look at the clock again. urllib3 would allow a whole body no longer than a connect."""
    check_not_late()
    call = current_call.get()
    if call.connections is not None:
        call.connections.add(connection)
    if connection.sock is not None:
        connection.sock.settimeout(call.timeout_seconds)


class HeadReader:
    """The head of one response, reduced to its status line and the fields in FIELDS_READ.

    `http.client` refuses a response with more than 100 fields or a line of more than 64 KiB, and a
    client can give its object any number of `x-amz-meta-*` fields, which the store repeats with each
    answer about it. Fields that are not read are therefore skipped before `http.client` sees them.
    """

    def __init__(self, lines: io.BufferedIOBase) -> None:
        self._lines = lines
        self._left = LARGEST_HEAD_BYTES
        self._in_field = False

    def readline(self, limit: int | None = -1, /) -> bytes:
        """Return the next line that is read, or the empty line that ends the head."""
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
            raise HTTPException(f"the head of the response is larger than {LARGEST_HEAD_BYTES} bytes")
        return line

    def close(self) -> None:
        self._lines.close()


def is_head_line_read(line: bytes, *, in_field: bool) -> bool:
    """Return whether `http.client` needs the line; `in_field`: it was given the line before."""
    if line in (b"", b"\n", b"\r\n") or line.startswith(b"HTTP/"):
        return True
    if line[:1] in b" \t":  # the continuation of a field (RFC 9112, section 5.2)
        return in_field
    name = line.partition(b":")[0].strip().lower()
    return name in FIELDS_READ or name.startswith(OWN_METADATA)


class StoreResponse(HTTPResponse):
    """A response whose head is read through HeadReader."""

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


class PunctualConnection(HTTPConnection):
    """Calls `begin_sending` before the first byte of each request, over a connection that is new or kept."""

    response_class = StoreResponse

    def connect(self) -> None:
        super().connect()
        begin_sending(self)

    def putrequest(self, *arguments: Any, **options: Any) -> None:
        begin_sending(self)
        super().putrequest(*arguments, **options)


class PunctualTlsConnection(HTTPSConnection):
    response_class = StoreResponse

    def connect(self) -> None:
        super().connect()
        begin_sending(self)

    def putrequest(self, *arguments: Any, **options: Any) -> None:
        begin_sending(self)
        super().putrequest(*arguments, **options)


class PunctualPool(HTTPConnectionPool):
    ConnectionCls = PunctualConnection


class PunctualTlsPool(HTTPSConnectionPool):
    ConnectionCls = PunctualTlsConnection


class StorePool(urllib3.PoolManager):
    """Repeats nothing that writes: a PUT sent twice may land after the object under its key was already hashed."""

    def __init__(self, *, secure: bool) -> None:
        # The default context trusts what the system trusts, or SSL_CERT_FILE.
        super().__init__(maxsize=CONNECTIONS_KEPT, ssl_context=ssl.create_default_context() if secure else None)
        self.connections = Connections()
        self.pool_classes_by_scheme = {"http": PunctualPool, "https": PunctualTlsPool}

    def urlopen(  # type: ignore[override] # nobody here asks for redirects
        self, method: str, url: str, **options: Any
    ) -> urllib3.BaseHTTPResponse:
        """Redirects are never followed either: a signed request means one host."""
        current_call.get().connections = self.connections
        seconds = current_call.get().timeout_seconds
        options |= {"timeout": Timeout(connect=min(CONNECT_SECONDS, seconds), read=seconds), "retries": False}
        check_not_late()
        try:
            return super().urlopen(method, url, redirect=False, **options)
        except ProtocolError:  # mostly a kept connection that the store closed a moment ago
            if method not in REPEATABLE:
                raise
            return super().urlopen(method, url, redirect=False, **options)


class Client(Minio):
    """The SDK with its innermost call replaced.

    The SDK's own hashes every body again, turns some answers into a TypeError, and puts a body into its errors' text.
    """

    def __init__(self, endpoint: str, *, access_key: str, secret_key: str, region: str) -> None:
        scheme, host = parse_endpoint(endpoint)
        self.origin = f"{scheme}://{host}"
        self.secure = scheme == "https"
        self.pool = StorePool(secure=self.secure)
        super().__init__(host, access_key=access_key, secret_key=secret_key, region=region, secure=self.secure, http_client=self.pool)

    def _url_open(
        self,
        method: str,
        region: str,
        bucket_name: str | None = None,
        object_name: str | None = None,
        body: bytes | None = None,
        headers: DictType | None = None,
        query_params: DictType | None = None,
        preload_content: bool = True,
        no_body_trace: bool = False,  # noqa: ARG002  # the parent's: nothing is ever traced here
    ) -> urllib3.BaseHTTPResponse:
        """Send one signed request; a header `x-amz-content-sha256` that is already there is the body's digest. Raises StoreError."""
        url = self._base_url.build(
            method=method, region=region, bucket_name=bucket_name, object_name=object_name, query_params=query_params
        )
        sent = dict(headers or {})
        date = sdk_time.utcnow()
        digest = str(sent.get("x-amz-content-sha256") or self._payload_hash(body))
        sent |= {"Host": url.netloc, "x-amz-date": sdk_time.to_amz_date(date), "x-amz-content-sha256": digest}
        if body is not None:
            sent["Content-Length"] = str(len(body))
        credentials = self._provider.retrieve()  # type: ignore[union-attr] # keys were given, so there is one
        sent = sign_v4_s3(method=method, url=url, region=region, headers=sent, credentials=credentials, content_sha256=digest, date=date)
        request = name_request(method, bucket_name, object_name)
        response = self.open(method, urlunsplit(url), request=request, headers=sent, body=body, preload_content=preload_content)
        code = error_code(response, preloaded=preload_content)
        if response.status in (200, 204, 206) and code is None:
            return response
        copies = "x-amz-copy-source" in sent
        reads = object_name is not None and method in ("GET", "HEAD")
        raise error_for_answer(request, response.status, code=code, reads_object=reads, copies_object=copies)

    def open(self, method: str, url: str, *, request: str, **options: Any) -> urllib3.BaseHTTPResponse:
        """Send a request that is complete; `request` is how an error names it."""
        try:
            return self.pool.urlopen(method, url, **options)
        except (HTTPError, OSError) as error:
            raise unavailable(request, error) from error

    def _payload_hash(self, body: bytes | None) -> str:
        if not body:
            return NOTHING_SHA256
        return "UNSIGNED-PAYLOAD" if self.secure else sha256_hash(body)


def name_request(method: str, bucket: str | None, key: str | None) -> str:
    """For logs. A key is shown by its beginning: on an old MinIO who knows one of incoming's may be able to write there."""
    return f"{method} /{bucket or ''}" + (f"/{key[:8]}…" if key else "")


def unavailable(request: str, error: BaseException) -> StoreError:
    """What went wrong on the way, by its kind alone: the text of a transport error may hold a URL with its query."""
    return StoreUnavailable(f"{request}: {type(error).__name__}")


def error_code(response: urllib3.BaseHTTPResponse, *, preloaded: bool) -> str | None:
    """The store's code for what went wrong; None when all went well or the store gave none.

    A copy or a completion may begin with 200 and end with an error in its body (S3's CopyObject). HEAD has no body: MinIO has a header.
    """
    good = response.status in (200, 204, 206)
    if good and not (preloaded and is_error_document(response.data)):
        return None
    try:
        body = response.data  # read whole, so that the connection can be used again
        found = ET.fromstring(body).findtext("{*}Code") if body else None  # noqa: S314  # an answer of our own store
    except (ET.ParseError, HTTPError, OSError):
        found = None
    return found or response.headers.get("x-minio-error-code") or ("UnnamedError" if good else None)


def is_error_document(body: bytes) -> bool:
    """Whether the root is `Error`: a DeleteResult has such elements further down. Blanks keep a long answer alive before it begins."""
    start = body[:4096].lstrip()
    if start.startswith(b"<?xml"):
        start = start.partition(b"?>")[2].lstrip()
    return start.startswith(b"<Error")
