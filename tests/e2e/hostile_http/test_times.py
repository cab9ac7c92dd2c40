"""Tests of timeouts and connection limits, with a server whose limits are low enough to reach."""

import contextlib
import select
import time
from collections.abc import Iterator, Sequence

import msgspec
import pytest

from service.http.server.limits import Limits
from tests.e2e.conftest import Api, serving
from tests.e2e.hostile_http.cases import CHUNKED, HELLO, HOST, fill, get, head, upload
from tests.e2e.hostile_http.site import Site, check_answer
from tests.support.wire import Ended, Wire, connected

HEAD_SECONDS = 1.0
CLOSED_SECONDS = 10.0
"""A time much longer than the limits of these tests, and shorter than the default limits."""
FOREVER = 3600.0
UNKNOWN_KEY = head(b"POST /files/upload?filename=a HTTP/1.1", HOST, CHUNKED)


@contextlib.contextmanager
def bounded(api: Api, *, connections: int = 1000, keep_alive: float = FOREVER) -> Iterator[str]:
    """Run a separate server with low limits over the same database and store."""
    limits = Limits(
        connections=connections,
        keep_alive_seconds=keep_alive,
        least_bytes_per_second=api.settings.min_upload_rate,
        head_seconds=HEAD_SECONDS,
        drain_seconds=1.0,
        linger_seconds=1.0,
    )
    settings = msgspec.structs.replace(api.settings, max_connections=connections)
    with serving(settings, with_worker=False, limits=limits) as url:
        yield url


def watch(wires: Sequence[Wire], *, trickle: bytes = b"") -> None:
    """Receive until the server has closed each connection, and send one byte at a time meanwhile.

    Raises TimeoutError if one of them stays open.
    """
    deadline = time.monotonic() + CLOSED_SECONDS
    rest = trickle
    while waiting := [wire for wire in wires if not wire.ended]:
        if time.monotonic() > deadline:
            raise TimeoutError(f"{len(waiting)} of {len(wires)} connections are open")
        for wire in find_readable(waiting, 0.1):
            wire.receive()
        for wire in waiting:
            wire.write(rest[:1])
        rest = rest[1:]


def find_readable(wires: Sequence[Wire], seconds: float) -> list[Wire]:
    poll = select.poll()
    for wire in wires:
        poll.register(wire.socket, select.POLLIN)
    found = {descriptor for descriptor, _ in poll.poll(seconds * 1000)}
    return [wire for wire in wires if wire.socket.fileno() in found]


def test_a_head_that_does_not_end_is_refused_with_408(one_api: Api, site: Site) -> None:
    """Check the rule of RFC 9110, section 15.5.9.

    A connection on which the client sent nothing may be closed without a response.
    """
    text = get(HOST)
    with bounded(one_api) as url, contextlib.ExitStack() as stack:
        silent = stack.enter_context(connected(url, 60))
        starts = {
            "a line that does not end": text[:10],
            "a field that does not end": text[:-8],
            "no blank line": text[:-2],
        }
        stuck = stack.enter_context(connected(url, len(starts)))
        for wire, start in zip(stuck, starts.values(), strict=True):
            wire.send(start)
        [later, idle, trickling] = stack.enter_context(connected(url, 3))
        for wire in (later, idle):
            wire.check_in_step()
        later.send(text[:-2])
        begun = time.monotonic()
        watch([*silent, *stuck, later, trickling], trickle=text[:-1])
        assert time.monotonic() - begun > HEAD_SECONDS / 2
        for wire in (*stuck, later, trickling):
            check_answer(wire.read_answer(), frozenset({408}))
            wire.check_closed()
        for wire in silent:
            with contextlib.suppress(Ended):
                check_answer(wire.read_answer(), frozenset({408}))
            wire.check_closed()
        idle.check_in_step()


def test_a_connection_idle_between_requests_is_closed_without_a_response(one_api: Api) -> None:
    with bounded(one_api, keep_alive=0.5) as url, connected(url, 5) as wires:
        for wire in wires:
            wire.check_in_step()
        watch(wires)
        for wire in wires:
            wire.check_closed()


@pytest.mark.parametrize(
    ("start", "trickle"),
    [
        (b"GET /health/live HTTP/1.1\r\nX-A : b\r\n\r\n", b"GET / HTTP/1.1\r\n" * 8),
        (UNKNOWN_KEY, b"ffff\r\n" + b"a" * 200),
        (UNKNOWN_KEY.replace(CHUNKED, b"Content-Length: 100000000"), b"a" * 200),
    ],
    ids=["after a refused head", "chunks of a refused upload", "a refused upload of 100 MB"],
)
def test_a_client_that_sends_after_a_refusal_is_disconnected(
    one_api: Api, start: bytes, trickle: bytes
) -> None:
    """Check that the server reads for a limited time, and then resets (RFC 9112, section 9.6)."""
    with bounded(one_api) as url, Wire(url) as wire:
        wire.send(start)
        answer = wire.read_answer()
        check_answer(answer, frozenset({400, 401}))
        assert answer.announces_close
        assert is_reset(wire, trickle)


def is_reset(wire: Wire, trickle: bytes) -> bool:
    """Send one byte at a time, and return whether the connection is reset before the last one."""
    for byte in trickle:
        if not wire.write(bytes([byte])):
            return True
        find_readable([], 0.05)
    return False


# The limit of connections


def test_the_longest_idle_connection_is_closed_for_a_new_one(one_api: Api, site: Site) -> None:
    """Check that a request in progress is never aborted to make room for a new connection."""
    start = fill([upload(CHUNKED)], site.values("under-way---"))
    with bounded(one_api, connections=4) as url, connected(url, 3) as [busy, first, second]:
        busy.send(*start, HELLO[:8], b"")
        for wire in (first, second):
            wire.check_in_step()
        with connected(url, 2) as newer:
            for wire in newer:
                wire.check_in_step()
            first.check_closed()
            second.check_in_step()
            busy.send(HELLO[8:])
            assert busy.read_answer().status == 201
            busy.check_in_step()


def test_a_connection_that_was_just_used_is_not_closed_for_a_new_one(one_api: Api) -> None:
    with bounded(one_api, connections=2) as url, connected(url, 2) as [first, second]:
        for wire in (first, second, first):
            wire.check_in_step()
        with Wire(url) as newer:
            newer.check_in_step()
            second.check_closed()
            first.check_in_step()


def test_a_new_connection_is_refused_if_no_other_is_idle(one_api: Api, site: Site) -> None:
    start = fill([upload(CHUNKED)], site.values("under-way---"))
    with bounded(one_api, connections=3) as url, connected(url, 3) as wires:
        for wire in wires:
            wire.send(*start, HELLO[:8], b"")
        with Wire(url) as refused:
            answer = refused.read_answer()
            check_answer(answer, frozenset({503}))
            assert answer.find(b"retry-after")
            refused.check_closed()
        for wire in wires:
            wire.send(HELLO[8:])
            assert wire.read_answer().status == 201
        with Wire(url) as accepted:
            accepted.check_in_step()
