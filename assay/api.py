"""The requests to the API, one function each.

A request is repeated while the API is unavailable. A refusal is raised as an error.
Every request of this module can safely be sent twice. GET, DELETE, `complete`, `parts` and
`upload` change nothing the second time, and POST /files carries an Idempotency-Key.
"""

import threading
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Final, TypeVar
from urllib.parse import urlencode
from uuid import UUID

import msgspec

from assay.errors import (
    URN,
    AssayError,
    NotAssay,
    Problem,
    ServerUnavailable,
    Unauthorized,
    describe_refusal,
)
from assay.files import File, Link
from assay.retries import RetryPolicy
from assay.transport import Answer, ConnectionLost, Transport, place

T = TypeVar("T")
AWAY: Final = frozenset({429, 502, 503, 504})
"""The statuses of an API, or of a proxy in front of it, that is unavailable for now."""
DAMAGED: Final = URN + "file-damaged"
"""The type of the only problem with such a status that a repetition does not solve."""
LONGEST_WAIT_SECONDS: Final = 50
"""The longest time that the API lets one request wait."""
STRANGER_SECONDS: Final = 10.0
"""How long requests are repeated to a server that has never responded. Its URL may be wrong."""


class Parts(msgspec.Struct, frozen=True):
    """The division of a file into parts. Each part except the last has `part_size` bytes."""

    part_size: int
    parts: int


class Upload(msgspec.Struct, frozen=True, kw_only=True):
    """How to send the bytes: in one PUT to `url` with these headers, or in parts."""

    expires_at: datetime
    url: str | None = None
    headers: dict[str, str] = {}
    multipart: Parts | None = None


class Declared(msgspec.Struct, frozen=True):
    """A declared file. `upload` is None if the file no longer needs any bytes."""

    file: File
    upload: Upload | None = None


class SignedPart(msgspec.Struct, frozen=True):
    """The presigned PUT of one part."""

    number: int
    size: int
    url: str
    headers: dict[str, str] = {}


class StoredPart(msgspec.Struct, frozen=True):
    """A part that has arrived at the store."""

    number: int
    size: int


class SignedParts(msgspec.Struct, frozen=True):
    parts: list[SignedPart]


class StoredParts(msgspec.Struct, frozen=True):
    parts: list[StoredPart]


class FilePage(msgspec.Struct, frozen=True):
    files: list[File]
    next: str | None = None


DECODERS: Final[dict[Any, msgspec.json.Decoder[Any]]] = {
    kind: msgspec.json.Decoder(kind)
    for kind in (File, FilePage, Declared, SignedParts, StoredParts, Link, Problem)
}
"""The decoders of all responses, which are made before any thread starts.

msgspec 0.22 crashes if two threads prepare the decoding of one type at the same time.
"""


class Api:
    """The API at one URL, with the key that is sent to it."""

    def __init__(
        self, transport: Transport, url: str, key: str | None, *, retry_seconds: float
    ) -> None:
        self.transport = transport
        self.url = url
        self.retry_seconds = retry_seconds
        self._key = key
        # It is set once the server has answered as Assay does.
        self._met = threading.Event()

    def authorize(self) -> dict[str, str]:
        """Return the Authorization header. Raises Unauthorized if there is no key."""
        if not self._key:
            raise Unauthorized("no API key: pass key=…, or set ASSAY_KEY")
        return {"Authorization": f"Bearer {self._key}"}

    def declare(self, fields: Mapping[str, Any], *, idempotency_key: str) -> Declared:
        answer = self.ask(
            "POST", "/files", json=fields, headers={"Idempotency-Key": idempotency_key}
        )
        return self.decode(answer, Declared)

    def renew_upload(self, file_id: UUID) -> Declared:
        return self.decode(self.ask("POST", f"/files/{file_id}/upload"), Declared)

    def complete(self, file_id: UUID, *, sha256: str | None, wait: int) -> File:
        fields = {} if sha256 is None else {"sha256": sha256}
        return self.decode(
            self.ask(
                "POST", f"/files/{file_id}/complete?wait={wait}", json=fields, extra_seconds=wait
            ),
            File,
        )

    def sign_parts(self, file_id: UUID, parts: list[dict[str, Any]]) -> list[SignedPart]:
        return self.decode(
            self.ask("POST", f"/files/{file_id}/parts", json={"parts": parts}), SignedParts
        ).parts

    def list_parts(self, file_id: UUID) -> list[StoredPart]:
        return self.decode(self.ask("GET", f"/files/{file_id}/parts"), StoredParts).parts

    def read_metadata(self, file_id: UUID, *, wait: int = 0) -> File:
        query = f"?wait={wait}" if wait else ""
        return self.decode(
            self.ask("GET", f"/files/{file_id}/metadata{query}", extra_seconds=wait), File
        )

    def read_page(self, filters: Mapping[str, str | Sequence[str]]) -> FilePage:
        return self.decode(self.ask("GET", f"/files?{urlencode(filters, doseq=True)}"), FilePage)

    def delete(self, file_id: UUID) -> None:
        self.ask("DELETE", f"/files/{file_id}")

    def make_link(self, file_id: UUID, *, expires_in: int, disposition: str, embed: bool) -> Link:
        fields = {"expires_in": expires_in, "disposition": disposition, "embed": embed}
        link = self.decode(self.ask("POST", f"/files/{file_id}/links", json=fields), Link)
        # Without ASSAY_PUBLIC_URL, the server returns a path relative to the client's URL.
        if link.url.startswith("/"):
            return msgspec.structs.replace(link, url=self.url + link.url)
        return link

    def ask(
        self,
        method: str,
        path: str,
        *,
        json: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
        extra_seconds: float = 0.0,
    ) -> Answer:
        """Send a request, and return the response if it has a 2xx status.

        The request is repeated while the API is unavailable. Raises ServerUnavailable if the
        retries are used up, and the errors of `check_answer`.
        """
        body = None if json is None else msgspec.json.encode(json)
        sent = (
            self.authorize()
            | ({} if body is None else {"Content-Type": "application/json"})
            | dict(headers or {})
        )
        retries = self.new_retry_policy()
        while True:
            try:
                answer = self.transport.send(
                    method, self.url + path, headers=sent, body=body, extra_seconds=extra_seconds
                )
            except ConnectionLost as error:
                if not retries.wait():
                    raise ServerUnavailable(f"the API: {error}") from error
                continue
            if not is_away(answer) or not retries.wait(read_retry_after(answer)):
                return self.check_answer(answer)

    def new_retry_policy(self) -> RetryPolicy:
        return RetryPolicy(
            self.retry_seconds if self._met.is_set() else min(self.retry_seconds, STRANGER_SECONDS)
        )

    def check_answer(self, answer: Answer) -> Answer:
        """Return the response if it has a 2xx status.

        Raises Refused, DigestMismatch, ServerUnavailable or NotAssay otherwise.
        """
        if 200 <= answer.status < 300:
            return answer
        raise self.read_refusal(answer)

    def read_refusal(self, answer: Answer) -> AssayError:
        """Return the error for a response without a 2xx status.

        The response may come from a proxy, and is then no problem document.
        """
        if has_problem(answer):
            self._met.set()
            problem = read_problem(answer.body)
            if is_away(answer):
                return ServerUnavailable(f"the API: {problem.detail or problem.title}", problem)
            return describe_refusal(problem)
        if answer.status in AWAY:
            return ServerUnavailable(f"{place(self.url)} answers {answer.status}")
        return NotAssay(
            f"{place(self.url)} answers {answer.status}, but is not an Assay server: check the URL"
        )

    def decode(self, answer: Answer, kind: type[T]) -> T:
        """Decode the JSON body of a response. Raises NotAssay if it has another structure."""
        try:
            decoded: T = DECODERS[kind].decode(answer.body)
        except (ValueError, RecursionError) as error:  # also for text that is not UTF-8
            raise NotAssay(
                f"{place(self.url)} answers, but is not an Assay server ({error}): check the URL"
            ) from error
        self._met.set()
        return decoded


def has_problem(answer: Answer) -> bool:
    return answer.headers.get("content-type", "").startswith("application/problem+json")


def is_away(answer: Answer) -> bool:
    """Return whether the API is unavailable for now, so that the request may be repeated."""
    if answer.status not in AWAY:
        return False
    return not (has_problem(answer) and read_problem(answer.body).type == DAMAGED)


def read_problem(body: bytes) -> Problem:
    """Decode a problem document. Return a substitute if the document is malformed."""
    try:
        document = msgspec.json.decode(body, type=dict[str, Any])
        return msgspec.convert(document | {"document": document}, Problem)
    except (ValueError, RecursionError) as error:  # also for text that is not UTF-8
        return Problem(
            type="about:blank", title="the response is malformed", status=0, detail=str(error)
        )


def read_retry_after(answer: Answer) -> float:
    """Return the value of Retry-After in seconds, at most 30.

    Return 0 if the header is absent or holds a date, because the local clock may be wrong.
    """
    given = answer.headers.get("retry-after", "")
    return min(float(given), 30.0) if given.isascii() and given.isdigit() else 0.0
