"""Tests of the order of responses, of interim responses, and of messages that end early."""

import contextlib
import json
import secrets
from pathlib import Path

import pytest

from tests.e2e.hostile_http.cases import (
    AUTHORIZATION,
    CHUNKED,
    HELLO,
    HOST,
    KIB,
    READY,
    fill,
    head,
    request,
    upload,
)
from tests.e2e.hostile_http.site import PROVED, Site, check_answer
from tests.support.servers import wait_until
from tests.support.wire import Ended, Wire

MIB = KIB**2
LIVE = b"GET /health/live HTTP/1.1"


def fill_one(site: Site, text: bytes, name: str = "name-of-case") -> bytes:
    [filled] = fill([text], site.values(name))
    return filled


# RFC 9112, section 9.3.2: pipelining


def test_pipelined_requests_are_answered_in_their_order(site: Site) -> None:
    marks = [secrets.token_hex(4).encode() for _ in range(20)]
    with Wire(site.url) as wire:
        wire.send(b"".join(head(LIVE, HOST, b"X-Request-Id: " + mark) for mark in marks))
        assert [wire.read_answer().find(b"x-request-id") for _ in marks] == marks
        wire.check_in_step()


def test_a_request_after_an_upload_is_answered_after_the_upload(site: Site) -> None:
    name, body = secrets.token_hex(6), secrets.token_bytes(300_000)
    first = fill_one(site, upload(b"Content-Length: %d" % len(body)), name) + body
    then = fill_one(site, request(b"GET /files?filename=" + name.encode() + b" HTTP/1.1"))
    with Wire(site.url) as wire:
        wire.send(first + then)
        stored, listed = wire.read_answer(), wire.read_answer()
        wire.check_in_step()
    assert (stored.status, listed.status) == (201, 200)
    file = json.loads(stored.body)
    assert json.loads(listed.body)["files"] == [file]
    assert site.read_vault(file["minio_object_name"]) == body


def test_a_refusal_ends_the_pipeline(site: Site) -> None:
    """Check that bytes after a request that cannot be framed are not treated as a request."""
    wrong = fill_one(site, upload(CHUNKED, b"Content-Length: 5") + b"0\r\n\r\n")
    with Wire(site.url) as wire:
        wire.send(head(LIVE, HOST) + wrong + head(LIVE, HOST))
        assert wire.read_answer().status == 200
        check_answer(wire.read_answer(), frozenset({400}))
        wire.check_closed()


def test_connection_close_ends_the_pipeline(site: Site) -> None:
    """Check the rule of RFC 9112, section 9.6."""
    with Wire(site.url) as wire:
        wire.send(head(LIVE, HOST, b"Connection: close") + head(LIVE, HOST))
        assert wire.read_answer().status == 200
        wire.check_closed()


# RFC 9110, section 10.1.1: Expect


def test_a_client_that_expects_100_receives_it(site: Site) -> None:
    with Wire(site.url) as wire:
        wire.send(fill_one(site, upload(b"Expect: 100-continue", b"Content-Length: 5")))
        assert wire.read_head() == (100, ())
        wire.send(b"hello")
        answer = wire.read_answer()
        assert (answer.status, json.loads(answer.body)["size"]) == (201, 5)
        wire.check_in_step()


def test_a_client_that_does_not_wait_for_100_gets_its_response(site: Site) -> None:
    with Wire(site.url) as wire:
        wire.send(fill_one(site, upload(b"Expect: 100-continue", CHUNKED) + HELLO))
        answer = wire.read_answer()
        assert (answer.status, json.loads(answer.body)["size"]) == (201, 5)
        wire.check_in_step()


def test_a_refusal_is_sent_in_place_of_100(site: Site) -> None:
    """Check that the connection is then closed.

    The client may omit its body, so the server could not find the next request.
    """
    with Wire(site.url) as wire:
        wire.send(
            head(
                b"POST /files/upload?filename=a HTTP/1.1",
                HOST,
                b"Expect: 100-continue",
                b"Content-Length: 5",
            )
        )
        answer = wire.read_answer()
        check_answer(answer, frozenset({401}))
        assert (answer.interim, answer.announces_close) == ((), True)
        wire.check_closed()


# RFC 9112, section 7: HTTP/1.0 has no transfer codings


def test_a_stream_of_events_over_http_1_0_has_no_chunks(site: Site) -> None:
    with Wire(site.url) as wire:
        wire.send(fill_one(site, request(b"GET /events HTTP/1.0")))
        status, fields = wire.read_head()
        names = {name.lower() for name, _ in fields}
        assert (status, names & {b"transfer-encoding", b"content-length"}) == (200, set())
        assert wire.take(len(b"retry: ")) == b"retry: "


@pytest.mark.parametrize("version", ["1.0", "1.1"])
def test_a_download_is_framed_for_the_version_of_its_request(site: Site, version: str) -> None:
    with Wire(site.url) as wire:
        wire.send(fill_one(site, request(b"GET /files/" + READY + b" HTTP/" + version.encode())))
        assert wire.read_answer(version=version).body == PROVED


# RFC 9110, section 9.3.2: HEAD


@pytest.mark.parametrize("version", ["1.0", "1.1"])
@pytest.mark.parametrize(
    "path", [b"/files/" + READY, b"/files/" + b"0" * 8 + READY[8:], b"/l/none", b"/none", b"/files"]
)
def test_a_response_to_head_has_no_body(site: Site, path: bytes, version: str) -> None:
    with Wire(site.url) as wire:
        wire.send(fill_one(site, request(b"HEAD " + path + b" HTTP/" + version.encode())))
        answer = wire.read_answer("HEAD", version=version)
        if answer.announces_close or version == "1.0":
            wire.check_closed()
        else:
            wire.check_in_step()


@pytest.mark.parametrize("line", [HOST, b"X-A : b", b"Content-Length: x"])
def test_a_refusal_of_head_has_no_body(site: Site, line: bytes) -> None:
    with Wire(site.url) as wire:
        wire.send(head(b"HEAD /health/live HTTP/1.1", HOST, line))
        assert wire.read_answer("HEAD").status == 400
        wire.check_closed()


# RFC 9112, section 8: incomplete messages

UNFINISHED = {
    "a length": upload(b"Content-Length: 10") + b"hello",
    "a length, no byte": upload(b"Content-Length: 10"),
    "a chunk": upload(CHUNKED) + b"a\r\nhello",
    "a chunk without its CRLF": upload(CHUNKED) + b"5\r\nhello",
    "no last chunk": upload(CHUNKED) + b"5\r\nhello\r\n",
    "no end of the trailers": upload(CHUNKED) + b"5\r\nhello\r\n0\r\n",
    "a chunk's size": upload(CHUNKED) + b"5\r\nhello\r\n0",
    "a form": request(
        b"POST /files/upload HTTP/1.1", b"Content-Type: multipart/form-data; boundary=x",
        b"Content-Length: 99",
    ) + b'--x\r\nContent-Disposition: form-data; name="file"; filename="name-of-case"\r\n\r\nhello',
}  # fmt: skip


@pytest.mark.parametrize("text", UNFINISHED.values(), ids=UNFINISHED)
@pytest.mark.parametrize("how", ["closes", "closes one side"])
def test_an_incomplete_body_leaves_nothing(site: Site, logs: Path, text: bytes, how: str) -> None:
    site.take_new()
    mark = secrets.token_hex(8)
    field = b"\r\nX-Request-Id: " + mark.encode() + b"\r\n"
    marked = fill_one(site, text).replace(b"\r\n", field, 1)
    with Wire(site.url) as wire:
        wire.send(marked, b"")  # the second segment is sent after the server has read the first
        if how == "closes one side":
            wire.finish_sending()
            with contextlib.suppress(Ended):
                check_answer(wire.read_answer(), frozenset({400}), "incomplete-body")
            wire.check_closed()
    wait_until(lambda: was_refused(logs, mark))
    assert (site.take_new(), site.count_reservations()) == ([], 0)


def was_refused(logs: Path, mark: str) -> bool:
    lines = (line for line in logs.read_text().splitlines() if mark in line)
    return any('"status": 400' in line for line in lines)


@pytest.mark.parametrize(
    "text", [b"GET /health/live HTT", b"GET /health/live HTTP/1.1\r\nHost: h\r\n", b"\r\n", b""]
)
def test_an_incomplete_head_is_not_treated_as_a_request(site: Site, text: bytes) -> None:
    with Wire(site.url) as wire:
        wire.send(text, b"")
        wire.finish_sending()
        with contextlib.suppress(Ended):
            check_answer(wire.read_answer(), frozenset({400}))
        wire.check_closed()


# RFC 9112, section 9.6: a response before the end of the request


@pytest.mark.parametrize(
    "framing", [b"Content-Length: %d" % (1024 * MIB), CHUNKED], ids=["a length", "chunks"]
)
def test_a_refusal_reaches_a_client_that_continues_to_send(site: Site, framing: bytes) -> None:
    """Send 16 MiB after a head that the server refuses, and only then read the response."""
    site.take_new()
    piece = secrets.token_bytes(MIB)
    with Wire(site.url) as wire:
        wire.send(head(b"POST /files/upload?filename=a HTTP/1.1", HOST, framing))
        for _ in range(16):
            if not wire.write(
                piece if framing != CHUNKED else b"%x\r\n%s\r\n" % (len(piece), piece)
            ):
                break
        check_answer(wire.read_answer(), frozenset({401}))
        wire.finish_sending()
        wire.check_closed()
    assert (site.take_new(), site.count_reservations()) == ([], 0)


# RFC 9112, section 3.2: a link does not contain the request's Host


def test_a_link_does_not_contain_the_requests_host(site: Site) -> None:
    body = b'{"expires_in": 60}'
    more = (AUTHORIZATION, b"Content-Type: application/json", b"Content-Length: %d" % len(body))
    forged = (
        b"X-Forwarded-Host: evil.example",
        b"X-Forwarded-Proto: https",
        b"Forwarded: host=evil.example;proto=https",
    )
    for target, host in (
        (b"", b"evil.example"),
        (b"http://evil.example", b"evil.example"),
        (b"http://evil.example", b"h"),
    ):
        line = b"POST " + target + b"/files/" + READY + b"/links HTTP/1.1"
        with Wire(site.url) as wire:
            wire.send(fill_one(site, head(line, b"Host: " + host, *forged, *more) + body))
            answer = wire.read_answer()
        assert answer.status == 201, answer
        assert b"evil.example" not in answer.body
        assert not [value for _, value in answer.fields if b"evil.example" in value]
        assert json.loads(answer.body)["url"].startswith("/l/")
