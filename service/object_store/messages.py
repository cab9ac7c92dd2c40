"""A request to the store and its response, independent of the transport that carries them.

Request ──signed by the client──> SignedRequest ──sent by a transport──> Answer
"""

from collections.abc import Mapping
from typing import Final

import msgspec

Body = bytes | bytearray | memoryview
NOTHING: Final[Mapping[str, str]] = {}
SUCCESSES: Final = frozenset({200, 204, 206})


class Deadline(msgspec.Struct, frozen=True):
    """The time limits of one request."""

    timeout_seconds: float
    """The limit of each wait on the socket.

    For a request with a body, also the limit for sending all of it.
    """
    send_before: float | None = None
    """The time of `clock` after which the request is no longer sent."""


class Request(msgspec.Struct, frozen=True):
    """A request for an object, for a bucket, or, if `bucket` is None, for the store itself."""

    method: str
    bucket: str | None = None
    key: str | None = None
    query: Mapping[str, str] = NOTHING
    headers: Mapping[str, str] = NOTHING
    body: Body | None = None
    sha256: str | None = None
    """The digest of the body in hexadecimal, if the caller knows it."""

    @property
    def name(self) -> str:
        """Return the name of the request for logs and errors.

        Only the beginning of a key is shown: on an old MinIO, a client that knows the key of an
        incoming object may be able to write to it.
        """
        return f"{self.method} /{self.bucket or ''}" + (f"/{self.key[:8]}…" if self.key else "")

    @property
    def reads_object(self) -> bool:
        return self.key is not None and self.method in ("GET", "HEAD")

    @property
    def returns_object(self) -> bool:
        """Return whether the body of a success consists of the bytes of an object."""
        return self.method == "GET" and self.key is not None and not self.query

    @property
    def copies_object(self) -> bool:
        return "x-amz-copy-source" in self.headers


class SignedRequest(msgspec.Struct, frozen=True):
    """A request that is ready to be sent. `name` is its name in errors."""

    name: str
    method: str
    url: str
    headers: Mapping[str, str] = NOTHING
    body: Body | None = None


class Answer(msgspec.Struct, frozen=True):
    """The complete response to one request. The names of `headers` are in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes
