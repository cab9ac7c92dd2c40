"""A request to the store and its answer, independent of the transport that carries them.

Request ──signed by the client──> SignedRequest ──a transport──> Answer
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
    """For each wait on the socket; for a body that is sent, also for all of it."""
    send_before: float | None = None
    """A `time.monotonic()` from which on the request is not sent any more."""


class Request(msgspec.Struct, frozen=True):
    """What is asked of the store: of an object, of a bucket, or of the store if `bucket` is None."""

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
        """The request as logs and errors show it.

        Only the beginning of a key is shown: on an old MinIO, a client that knows the key of an
        incoming object may be able to write there.
        """
        return f"{self.method} /{self.bucket or ''}" + (f"/{self.key[:8]}…" if self.key else "")

    @property
    def reads_object(self) -> bool:
        return self.key is not None and self.method in ("GET", "HEAD")

    @property
    def copies_object(self) -> bool:
        return "x-amz-copy-source" in self.headers


class SignedRequest(msgspec.Struct, frozen=True):
    """A request that is complete. `name` is how errors name it."""

    name: str
    method: str
    url: str
    headers: Mapping[str, str] = NOTHING
    body: Body | None = None


class Answer(msgspec.Struct, frozen=True):
    """The answer to one request, received completely. The names of `headers` are in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes
