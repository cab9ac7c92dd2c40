"""A PUT to the object store: what the store's answers mean.

1. 200: the bytes are there. 412: they were there already. Both: done.
2. No answer, or 408, 429, 5xx (503 SlowDown): the same PUT again, after a wait that grows, with jitter, until the retry policy ends it.
   No answer twice in a row: with a fresh URL from then on, for a store may refuse one that has ended so early that nobody hears it.
3. 403: the URL has ended, or was never right. A fresh one, at most three times in a row.
4. 404: the store does not know this multipart upload (any more). `complete` will say what that means.
5. 400 and anything else: the store will say the same again. Refused.

No header of ours but those that the URL asks for goes to the store: least of all a key.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Final

import msgspec

from assay.errors import ServerUnavailable, StoreRefused
from assay.retries import RetryPolicy
from assay.transport import PIECE, Answer, ConnectionLost, Transport, place

DONE: Final = frozenset({200, 201, 204, 412})
AGAIN: Final = frozenset({408, 429, 500, 502, 503, 504})
MOST_RENEWALS: Final = 3
CODE: Final = re.compile(rb"<Code>([A-Za-z0-9]{1,100})</Code>")
MUCH_BYTES: Final = 8 * PIECE
"""More than buffers on the way swallow: whoever took as much was there."""


class Put(msgspec.Struct, frozen=True):
    """A URL for one PUT of exactly `size` bytes, and the headers that it asks for."""

    url: str
    headers: dict[str, str]
    size: int


class Moved:
    """How much of a body went out."""

    size = 0

    def watch(self, body: Iterable[memoryview]) -> Iterator[memoryview]:
        for piece in body:
            yield piece
            self.size += len(piece)


def put(
    transport: Transport,
    first: Put,
    *,
    renew: Callable[[], Put],
    open_body: Callable[[], Iterable[memoryview]],
    retries: RetryPolicy,
) -> None:
    """Until the bytes are there. `open_body` begins the body anew. Raises StoreRefused, ServerUnavailable, what both functions raise."""
    current, renewals, cuts = first, 0, 0
    while True:
        moved = Moved()
        try:
            answer = send(transport, current, moved.watch(open_body()))
        except ConnectionLost as error:
            if moved.size > MUCH_BYTES:
                retries.forgive()
            if not retries.wait():
                raise ServerUnavailable(f"the store: {error}") from error
            cuts += 1
            current = renew() if cuts > 1 else current
            continue
        cuts = 0
        if answer.status in DONE:
            return
        if answer.status == 403 and renewals < MOST_RENEWALS:
            current, renewals = renew(), renewals + 1
        elif answer.status not in AGAIN:
            raise refusal(current, answer)
        elif not retries.wait():
            raise ServerUnavailable(
                f"the store: {place(current.url)} answers {answer.status} {read_code(answer)}"
            )


def send(transport: Transport, to: Put, body: Iterable[memoryview]) -> Answer:
    headers: Mapping[str, str] = {**to.headers, "Content-Length": str(to.size)}
    return transport.send("PUT", to.url, headers=headers, body=body)


def refusal(to: Put, answer: Answer) -> StoreRefused:
    code = read_code(answer)
    return StoreRefused(
        f"the store at {place(to.url)} refuses: {answer.status} {code}",
        status=answer.status,
        code=code,
    )


def read_code(answer: Answer) -> str:
    """S3's word for it: the body's `Code`, or MinIO's header."""
    found = CODE.search(answer.body)
    given = found[1].decode() if found else answer.headers.get("x-minio-error-code", "")
    return given if given.isascii() and given.isalnum() else ""
