"""A PUT to the object store, and what the store's responses mean.

1. 200: the bytes have been stored. 412: they were stored before. The PUT is done in both cases.
2. No response, or 408, 429 or 5xx (503 SlowDown): send the same PUT again, after a delay that
   grows, with jitter, until the retries are used up. After two attempts in a row without a
   response, use a fresh URL. (A store may refuse an expired URL and close the connection so early
   that the client does not receive the response.)
3. 403: the URL has expired or is wrong. Request a fresh one, at most three times.
4. 404: the multipart upload does not exist, or no longer exists. Raise StoreRefused. The
   response to `complete` shows the state.
5. 400 and every other status: a repetition would give the same response. Raise StoreRefused.

Only the headers that the URL requires are sent to the store. The API key never is.
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
"""More bytes than all buffers on the path to the store can hold.

If this many were sent, the store has received some of them.
"""


class Put(msgspec.Struct, frozen=True):
    """A URL for one PUT of exactly `size` bytes, and the headers that it asks for."""

    url: str
    headers: dict[str, str]
    size: int


class Moved:
    """A counter of the bytes of a body that were sent."""

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
    """Send a PUT, with retries, until the store has the bytes.

    `renew` returns a fresh URL, and `open_body` opens the body at its start. Raises StoreRefused,
    ServerUnavailable, and the errors of both functions.
    """
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
        f"the store at {place(to.url)} refuses the upload: {answer.status} {code}",
        status=answer.status,
        code=code,
    )


def read_code(answer: Answer) -> str:
    """Return the S3 error code, from the `Code` in the body or from MinIO's header, or ""."""
    found = CODE.search(answer.body)
    given = found[1].decode() if found else answer.headers.get("x-minio-error-code", "")
    return given if given.isascii() and given.isalnum() else ""
