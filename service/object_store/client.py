"""The client of one identity, which signs a request, sends it once and checks the response."""

import hashlib
from datetime import UTC, datetime

import urllib3

from service.object_store.errors import RequestRefused, StoreUnavailable, check_answer
from service.object_store.event_loop import EventLoopTransport
from service.object_store.messages import SUCCESSES, Answer, Deadline, Request, SignedRequest
from service.object_store.signing import (
    EMPTY_SHA256,
    UNSIGNED_PAYLOAD,
    RequestSigner,
    canonical_query,
    object_path,
)
from service.object_store.transport import (
    LARGEST_ANSWER_BYTES,
    ThreadedTransport,
    read_answer,
    read_headers,
)


class Client:
    """A client that threads and event loops can share. Each method raises StoreError."""

    def __init__(self, endpoint: str, *, access_key: str, secret_key: str, region: str) -> None:
        """Create a client of the store at `endpoint`, which is `http://host[:port]` or
        `https://host[:port]`.
        """
        self._signer = RequestSigner(
            endpoint, access_key=access_key, secret_key=secret_key, region=region
        )
        self.origin = self._signer.origin
        self._secure = self._signer.scheme == "https"
        self.transport = ThreadedTransport(secure=self._secure)
        self.event_loop = EventLoopTransport(self.origin)

    async def exchange(
        self, request: Request, deadline: Deadline, *, most_bytes: int = LARGEST_ANSWER_BYTES
    ) -> Answer:
        """Return the whole response of a request that succeeded. No thread is needed.

        The body is empty if an object has more than `most_bytes`.
        """
        answer = await self.event_loop.send(self.sign(request), deadline, most_bytes=most_bytes)
        return check_answer(request, answer)

    def send(self, request: Request, deadline: Deadline) -> Answer:
        """Return the whole response of a request that succeeded."""
        return check_answer(request, self.transport.send(self.sign(request), deadline))

    def open(self, request: Request, deadline: Deadline) -> urllib3.BaseHTTPResponse:
        """Return a successful response, whose body the caller reads."""
        response = self.transport.open(self.sign(request), deadline)
        if response.status not in SUCCESSES:
            check_answer(request, read_refusal(response, request.name))
        return response

    def cut(self) -> None:
        """Abort all requests, and close all connections."""
        self.transport.cut()
        self.event_loop.cut()

    def probe(self, path: str, deadline: Deadline) -> int:
        """Return the status of an unsigned GET."""
        return self.transport.send(
            SignedRequest(f"GET {path}", "GET", self.origin + path), deadline
        ).status

    def sign(self, request: Request) -> SignedRequest:
        """Return the request, signed with the current time.

        Raises RequestRefused if no path can contain the key.
        """
        try:
            path = request_path(request)
        except ValueError as error:
            raise RequestRefused(f"{request.name}: the key cannot be written as a path") from error
        query = canonical_query(request.query)
        headers = dict(request.headers)
        if request.body is not None:
            headers["Content-Length"] = str(memoryview(request.body).nbytes)
        signed = self._signer.sign(
            request.method,
            path,
            query,
            headers=headers,
            digest=self._digest(request),
            signed_at=datetime.now(UTC),
        )
        url = f"{self.origin}{path}?{query}" if query else f"{self.origin}{path}"
        return SignedRequest(request.name, request.method, url, signed, request.body)

    def _digest(self, request: Request) -> str:
        """Return what is signed for the body.

        TLS already protects the body, so that it is not hashed again.
        """
        if request.sha256 is not None:
            return request.sha256
        if not request.body:
            return EMPTY_SHA256
        return UNSIGNED_PAYLOAD if self._secure else hashlib.sha256(request.body).hexdigest()


def request_path(request: Request) -> str:
    if request.key is not None:
        return object_path(request.bucket, request.key)
    return f"/{request.bucket}" if request.bucket is not None else "/"


def read_refusal(response: urllib3.BaseHTTPResponse, request: str) -> Answer:
    """Return a response that is not a success.

    If its body cannot be read, the status alone is returned.
    """
    try:
        return read_answer(response, request)
    except (urllib3.exceptions.HTTPError, OSError, StoreUnavailable):
        response.close()
        return Answer(response.status, read_headers(response), b"")
