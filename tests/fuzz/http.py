"""The HTTP fuzzer. It sends mutated requests of the hostile suite and checks the outcome.

1. A case is a function of the seed and its number. Its bytes are read independently (framing.py).
2. The case is sent over its own connection. The server answers each complete request, or announces
   the end of the connection, and each wait is bounded. Then the client closes its side, and the
   server ends the connection. There are no more responses than requests, and no 5xx other than the
   refusals in ALLOWED.
3. Each new row is explained by a request of this case, or of a recent one.
4. From time to time, an honest upload must succeed. At the end, every object must have its row, and
   every proved file must consist of the bytes that its row describes.
"""

import random
import secrets
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import httpx

from tests.e2e.hostile_http.cases import CASES, HELLO, JSON, fill, request
from tests.e2e.hostile_http.site import Site
from tests.e2e.jobs import digest
from tests.fuzz.framing import Framed, Reading, read_requests
from tests.fuzz.mutations import mutate
from tests.support.trust import TRUSTED
from tests.support.wire import Answer, BadAnswer, Ended, Silence, Wire

BOUND_SECONDS: Final = 10.0
"""The bound for any response, and for the end of a connection whose client has closed its side."""
LARGEST_SEED: Final = 4096
LARGE_SHARE: Final = 0.01
"""The share of the cases that may start from larger seeds."""
REMEMBERED: Final = 500
"""The number of recent cases that may explain a row, because a commit may be late."""
PROBE_EVERY: Final = 25
ALLOWED: Final = frozenset({501, 505})
"""The statuses by which the server refuses what it does not implement. The client causes them."""
MORE_SEEDS: Final = (
    request(b"GET /files?limit=1 HTTP/1.1"),
    request(b"POST /files HTTP/1.1", JSON, body=b'{"filename": "a", "size": 4711}'),
    request(b"PUT /upload/a HTTP/1.1", body=b"hello"),
    request(b"PUT /upload/a HTTP/1.1", b"Transfer-Encoding: chunked") + HELLO,
    request(b"HEAD /files?limit=1 HTTP/1.1"),
)

Segments = Sequence[bytes]


@dataclass(frozen=True)
class Finding:
    """A violation of the rules above, and the bytes that cause it."""

    number: int
    what: str
    segments: Segments

    def __str__(self) -> str:
        bytes_sent = ",\n  ".join(repr(segment) for segment in self.segments)
        return f"case {self.number}: {self.what}\n  {bytes_sent}"


@dataclass
class Tally:
    """The counts and the findings of a run."""

    cases: int = 0
    answers: int = 0
    rows: int = 0
    probes: int = 0
    statuses: dict[int, int] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)

    def describe(self) -> str:
        statuses = ", ".join(
            f"{status}: {self.statuses[status]}" for status in sorted(self.statuses)
        )
        return (
            f"{self.cases} cases, {self.answers} responses ({statuses}), {self.rows} rows, "
            f"{self.probes} honest probes, {len(self.findings)} findings"
        )

    def count(self, answers: Sequence[Answer]) -> None:
        self.cases += 1
        self.answers += len(answers)
        for answer in answers:
            self.statuses[answer.status] = self.statuses.get(answer.status, 0) + 1


class Fuzzer:
    """A run against one server. `is_alive` returns whether its process still runs."""

    def __init__(self, site: Site, seed: int, *, is_alive: Callable[[], bool]) -> None:
        self.site = site
        self.seed = seed
        self.is_alive = is_alive
        self.tally = Tally()
        self.readings: deque[Reading] = deque(maxlen=REMEMBERED)
        self.honest = httpx.Client(
            base_url=site.url,
            headers={"Authorization": f"Bearer {site.key}"},
            timeout=BOUND_SECONDS,
            verify=TRUSTED,
        )

    def run(self, numbers: Iterator[int], *, seconds: float) -> Tally:
        deadline = time.monotonic() + seconds
        for number in numbers:
            if time.monotonic() > deadline:
                break
            self.try_case(number)
            if self.tally.cases % PROBE_EVERY == 0:
                self.probe(number)
            if not self.is_alive():
                self.report(number, "the server's process has ended")
                break
        self.probe(-1)
        self.site.check_buckets()
        self.honest.close()
        return self.tally

    def report(self, number: int, what: str) -> None:
        segments = make_case(self.seed, number) if number >= 0 else ()
        self.tally.findings.append(Finding(number, what, segments))

    def try_case(self, number: int) -> None:
        segments = fill(make_case(self.seed, number), self.site.values("name-of-case"))
        reading = read_requests(b"".join(segments))
        self.readings.append(reading)
        answers: list[Answer] = []
        try:
            exchange(self.site.url, segments, reading, answers)
        except (BadAnswer, Silence) as error:
            self.report(number, f"{type(error).__name__}: {error}")
        self.tally.count(answers)
        for answer in answers:
            if answer.status >= 500 and answer.status not in ALLOWED:
                self.report(number, f"{answer.status}: {answer.body[:200]!r}")
        self.check_rows(number)

    def check_rows(self, number: int) -> None:
        rows = self.site.take_new()
        self.tally.rows += len(rows)
        for row in rows:
            if not any(explains(reading, row) for reading in self.readings):
                self.report(number, f"no request explains this file: {row}")

    def probe(self, number: int) -> None:
        """Make one honest upload, of random bytes that no case contains."""
        self.tally.probes += 1
        body, name = secrets.token_bytes(64), secrets.token_hex(6)
        self.readings.append(Reading((Framed(b"POST", b"", b"HTTP/1.1", body),), None))
        try:
            answer = self.honest.post("/files/upload", params={"filename": name}, content=body)
            if answer.status_code != 201 or answer.json()["hash"] != digest(body):
                self.report(number, f"an honest upload got {answer.status_code}: {answer.text}")
        except httpx.HTTPError as error:
            self.report(number, f"an honest upload failed: {error!r}")
        self.check_rows(number)


def explains(reading: Reading, row: dict[str, Any]) -> bool:
    return reading.explains(state=row["state"], size=row["size"], digest=row["hash"])


def make_case(seed: int, number: int) -> list[bytes]:
    """Return the segments of a case, with their placeholders. Equal arguments give equal bytes."""
    dice = random.Random(f"{seed}/{number}")  # noqa: S311  # it must be repeatable, not secret
    return mutate(dice, SEEDS if dice.random() < LARGE_SHARE else SMALL_SEEDS)


SEEDS: Final = [case.segments for case in CASES] + [(text,) for text in MORE_SEEDS]
SMALL_SEEDS: Final = [seed for seed in SEEDS if sum(map(len, seed)) <= LARGEST_SEED]


def exchange(
    url: str,
    segments: Segments,
    reading: Reading,
    answers: list[Answer],
    *,
    seconds: float = BOUND_SECONDS,
) -> None:
    """Send the segments, collect the responses, close this side, and wait for the end.

    Raises BadAnswer, Silence.
    """
    with Wire(url, seconds=seconds) as wire:
        wire.send(*segments)
        try:
            for framed in reading.requests:
                answers.append(read_answer(wire, framed))
            wire.finish_sending()
            if reading.rest is not None:
                answers.append(wire.read_answer("HEAD" if reading.rest == b"HEAD" else "GET"))
        except Ended:
            check_announced(reading, answers)
        wire.finish_sending()
        wire.check_closed()


def read_answer(wire: Wire, framed: Framed) -> Answer:
    method = framed.method.decode("latin-1")
    return wire.read_answer(method, version="1.0" if framed.is_old else "1.1")


def check_announced(reading: Reading, answers: Sequence[Answer]) -> None:
    """Check that the server announced the end of a connection with unanswered requests.

    The server may end a connection without any response, and a connection of HTTP/1.0, without an
    announcement. Raises BadAnswer.
    """
    if not answers or len(answers) >= len(reading.requests) or answers[-1].announces_close:
        return
    if not reading.requests[len(answers) - 1].is_old:
        raise BadAnswer(f"the connection ended without an announcement, after {answers[-1]}")
