"""A transport for threads: urllib3, with each request sent once under its own deadline."""

import ssl
from collections.abc import Callable
from typing import Final, TypeVar

import urllib3
from urllib3.exceptions import HTTPError, ProtocolError
from urllib3.util import Timeout

from service.object_store.connections import (
    Connections,
    DeadlinePool,
    DeadlineTlsPool,
    check_not_late,
    sending,
)
from service.object_store.errors import StoreUnavailable, unavailable
from service.object_store.messages import Answer, Deadline, SignedRequest

CONNECT_SECONDS: Final = 5.0
CONNECTIONS_KEPT: Final = 128
"""The connections that stay open for later requests. More may be open at the same time."""
LARGEST_ANSWER_BYTES: Final = 8 * 1024 * 1024
"""The largest response that is read. A page of 1,000 escaped keys of 1,024 bytes takes half of it.
"""
READ_BYTES: Final = 1024 * 1024
REPEATABLE: Final = frozenset({"GET", "HEAD", "DELETE"})

Result = TypeVar("Result")


class ThreadedTransport:
    """A transport that sends each request in the calling thread. Threads can share it.

    A request that writes is never sent twice, because a repeated PUT may arrive after the object
    under its key was hashed. Redirects are never followed, because a request is signed for one
    host.
    """

    def __init__(self, *, secure: bool) -> None:
        # The default context trusts the system's certificates, or those of SSL_CERT_FILE.
        self._pools = urllib3.PoolManager(
            maxsize=CONNECTIONS_KEPT, ssl_context=ssl.create_default_context() if secure else None
        )
        self._pools.pool_classes_by_scheme = {"http": DeadlinePool, "https": DeadlineTlsPool}
        self._connections = Connections()

    def send(self, request: SignedRequest, deadline: Deadline) -> Answer:
        """Return the whole response, even if it is an error.

        Raises SentTooLate or StoreUnavailable.
        """
        return self._exchange(
            request, deadline, lambda response: read_answer(response, request.name)
        )

    def open(self, request: SignedRequest, deadline: Deadline) -> urllib3.BaseHTTPResponse:
        """Return the response when its head has arrived.

        The caller reads the body and closes the response.
        """
        return self._exchange(request, deadline, lambda response: response)

    def cut(self) -> None:
        """Close all connections, including those that carry a request, and allow no new ones."""
        self._connections.cut()
        self.close()

    def close(self) -> None:
        """Close the connections that no request uses."""
        self._pools.clear()

    def _exchange(
        self,
        request: SignedRequest,
        deadline: Deadline,
        receive: Callable[[urllib3.BaseHTTPResponse], Result],
    ) -> Result:
        check_not_late(deadline)
        with sending(deadline, self._connections):
            try:
                return self._exchange_repeatedly(request, deadline, receive)
            except (HTTPError, OSError) as error:
                raise unavailable(request.name, error) from error

    def _exchange_repeatedly(
        self,
        request: SignedRequest,
        deadline: Deadline,
        receive: Callable[[urllib3.BaseHTTPResponse], Result],
    ) -> Result:
        try:
            return receive(self._begin(request, deadline))
        except ProtocolError:  # usually a kept connection that the store has just closed
            if request.method not in REPEATABLE:
                raise
            return receive(self._begin(request, deadline))

    def _begin(self, request: SignedRequest, deadline: Deadline) -> urllib3.BaseHTTPResponse:
        seconds = deadline.timeout_seconds
        return self._pools.urlopen(
            request.method,
            request.url,
            body=request.body,
            headers=request.headers,
            timeout=Timeout(connect=min(CONNECT_SECONDS, seconds), read=seconds),
            retries=False,
            redirect=False,
            preload_content=False,
        )


def read_answer(response: urllib3.BaseHTTPResponse, request: str) -> Answer:
    """Return the response with its whole body, so that the connection can be used again.

    Raises StoreUnavailable if the body is too large.
    """
    body = bytearray()
    while piece := response.read(READ_BYTES, decode_content=False):
        body += piece
        if len(body) > LARGEST_ANSWER_BYTES:
            response.close()
            raise StoreUnavailable(
                f"{request}: the response is larger than {LARGEST_ANSWER_BYTES} bytes",
                status=response.status,
            )
    response.release_conn()
    return Answer(response.status, read_headers(response), bytes(body))


def read_headers(response: urllib3.BaseHTTPResponse) -> dict[str, str]:
    return {name.lower(): value for name, value in response.headers.items()}
