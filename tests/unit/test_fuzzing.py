"""The fuzzers themselves: their cases follow from the seed, and they find what is wrong."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, given, seed, settings

from tests.e2e.hostile_http.cases import CHUNKED, FRAMING, HELLO, Case, Then, get, upload
from tests.fuzz.command_cases import Case as CommandCase
from tests.fuzz.command_cases import LocalFile, Stream, cases
from tests.fuzz.command_checks import (
    Entry,
    check_all_sent,
    check_end,
    check_kept,
    check_sent,
    check_written,
)
from tests.fuzz.command_processes import Ended, run_command
from tests.fuzz.framing import Framed, read_requests
from tests.fuzz.http import exchange, make_case
from tests.support.wire import Answer, BadAnswer, Silence, Wire

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
LAST = b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
ONE = get(b"Host: h")


@contextmanager
def answering(answer: bytes) -> Iterator[str]:
    """Yield the address of a server that sends `answer` on its connection.

    The server then waits until the client ends the connection.
    """
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        connection, _ = listener.accept()
        with connection:
            connection.sendall(answer)
            while connection.recv(65536):
                pass

    thread = threading.Thread(target=serve)
    thread.start()
    with listener:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    thread.join()


# Cases


def test_a_case_is_a_function_of_its_seed_and_number() -> None:
    cases = [b"".join(make_case(7, number)) for number in range(200)]
    assert cases == [b"".join(make_case(7, number)) for number in range(200)]
    assert len(set(cases)) > 190
    assert cases != [b"".join(make_case(8, number)) for number in range(200)]


# Reading requests


@pytest.mark.parametrize("case", [case for case in FRAMING if case.statuses == {201}], ids=str)
def test_a_request_is_read_with_the_body_that_must_be_stored(case: Case) -> None:
    reading = read_requests(b"".join(case.segments))
    assert [request.body for request in reading.requests] == [case.stored]
    assert reading.rest is None


@pytest.mark.parametrize(
    "case",
    [case for case in FRAMING if case.section == "RFC 9112 6.3" and case.then is Then.CLOSES],
    ids=str,
)
def test_an_ambiguous_request_hides_the_requests_after_it(case: Case) -> None:
    reading = read_requests(b"".join(case.segments) + ONE)
    assert reading.most_answers == 1


def test_a_file_is_explained_by_a_request_body_only() -> None:
    reading = read_requests(upload(CHUNKED) + HELLO)
    digest = bytes.fromhex("2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824")
    assert reading.explains(state="ready", size=5, digest=digest)
    assert not reading.explains(state="ready", size=5, digest=bytes(32))
    assert not reading.explains(state="pending", size=5, digest=None)


def test_a_pending_row_is_explained_by_a_declaration() -> None:
    body = b'{"filename": "a", "size": 7}'
    line = b"POST /files HTTP/1.1\r\nContent-Length: %d\r\n\r\n" % len(body)
    reading = read_requests(line + body)
    assert reading.requests == (Framed(b"POST", b"/files", b"HTTP/1.1", body),)
    assert reading.explains(state="pending", size=7, digest=None)
    assert not reading.explains(state="pending", size=8, digest=None)


# Checking responses


def collect(url: str, data: bytes, *, seconds: float = 10.0) -> list[Answer]:
    answers: list[Answer] = []
    exchange(url, [data], read_requests(data), answers, seconds=seconds)
    return answers


def test_a_correct_exchange_is_not_a_finding() -> None:
    with answering(OK + OK) as url:
        assert [answer.body for answer in collect(url, ONE + ONE)] == [b"ok", b"ok"]


@pytest.mark.parametrize(
    ("data", "answer"),
    [
        (ONE, OK + OK),
        (ONE, OK + LAST),
        (ONE, OK + b"x"),
        (upload(CHUNKED) + HELLO, OK + OK),
        (b"GET / HTTP/1.1\r\nbroken", LAST + OK),
    ],
)
def test_a_second_response_is_a_finding(data: bytes, answer: bytes) -> None:
    with answering(answer) as url, pytest.raises(BadAnswer, match="after the last response"):
        collect(url, data)


def test_a_missing_response_is_a_finding() -> None:
    with answering(b"") as url, pytest.raises(Silence):
        collect(url, ONE, seconds=0.2)


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nxx\r\n",
        b"HTTP/1.1 200 OK\r\nA : b\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: h2c\r\n\r\n",
        b"HTTP/1.0 200 OK\r\nContent-Length: 0\r\n\r\n",
        b"ok",
    ],
)
def test_a_response_with_invalid_framing_is_refused(answer: bytes) -> None:
    with answering(answer) as url, Wire(url) as wire:
        wire.send(ONE)
        wire.finish_sending()
        with pytest.raises(BadAnswer):
            wire.read_answer()


def test_a_response_to_http_1_0_must_not_be_chunked() -> None:
    chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n"
    with answering(chunked) as url, Wire(url) as wire:
        assert wire.read_answer().body == b"ok"
    with answering(chunked) as url, Wire(url) as wire, pytest.raises(BadAnswer):
        wire.read_answer(version="1.0")


# Commands


def draw_commands(number: int) -> list[CommandCase]:
    drawn: list[CommandCase] = []

    @seed(number)
    @settings(
        max_examples=50,
        phases=[Phase.generate],
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(cases())
    def draw(case: CommandCase) -> None:
        drawn.append(case)

    draw()
    return drawn


def test_a_command_is_a_function_of_its_seed() -> None:
    drawn = draw_commands(7)
    assert drawn == draw_commands(7)
    assert drawn != draw_commands(8)
    assert {case.command for case in drawn} >= {b"put", b"get", b"ls"}


def call(*arguments: bytes) -> CommandCase:
    return CommandCase((), arguments, b"given", (Stream.PLAIN,) * 3)


DONE = Ended(0, b"", b"")
MINE = Entry("aa" * 32, 0o644, 1)
THEIRS = Entry("bb" * 32, 0o644, 2)
SENT = {"hash": bytes.fromhex(MINE.digest)}


@pytest.mark.parametrize(
    ("ended", "text"),
    [
        (Ended(None, b"", b""), "did not end"),
        (Ended(120, b"", b""), "not documented"),
        (Ended(-6, b"", b""), "not documented"),
        (Ended(1, b"", b"Traceback (most recent call last)"), "Traceback"),
        (Ended(1, b"", b"x: unexpected error, please report it"), "unexpected"),
    ],
)
def test_a_wrong_end_of_a_command_is_a_finding(ended: Ended, text: str) -> None:
    [found] = check_end(ended)
    assert text in found
    assert list(check_end(Ended(8, b"", b"a: not found"))) == []


def test_other_bytes_at_the_server_are_a_finding() -> None:
    case = call(b"put", b"a")
    assert list(check_sent(case, [SENT], {b"a": MINE})) == []
    assert len(list(check_sent(case, [SENT], {b"a": THEIRS}))) == 1


@pytest.mark.parametrize("arguments", [(b"a",), (b"-r", b"."), (b"-r", b"./f/"), (b"f/b", b"x")])
def test_a_file_that_put_has_left_out_is_a_finding(arguments: tuple[bytes, ...]) -> None:
    case, before = call(b"put", *arguments), {b"a": MINE, b"f/b": MINE}
    assert list(check_all_sent(case, DONE, {MINE.digest}, before)) == []
    assert list(check_all_sent(case, Ended(8, b"", b""), (), before)) == []
    assert list(check_all_sent(case, DONE, (), before))
    assert list(check_all_sent(call(b"put", b"--name", b"a"), DONE, (), before)) == []


@pytest.mark.parametrize(
    ("arguments", "after", "count"),
    [
        ((b"put", b"a"), {b"a": MINE}, 0),
        ((b"put", b"a"), {}, 1),
        ((b"get", b"a"), {b"a": THEIRS}, 1),
        ((b"get", b"a", b"--force"), {b"a": THEIRS}, 0),
        ((b"get", b"a", b"--force"), {b"a": Entry(THEIRS.digest, 0o600, 1)}, 1),
        ((b"get", b"a", b"--force"), {b"a": Entry("cc" * 32, 0o644, 1)}, 1),
    ],
)
def test_a_changed_local_file_is_a_finding(
    arguments: tuple[bytes, ...], after: dict[bytes, Entry], count: int
) -> None:
    found = list(check_kept(call(*arguments), {b"a": MINE}, after, {THEIRS.digest}))
    assert len(found) == count


@pytest.mark.parametrize(
    ("arguments", "path", "count"),
    [
        ((b"get", b"a"), b"a", 0),
        ((b"get", b"a"), b".a.part", 0),
        ((b"ls",), b"a", 1),
        ((b"get", b"-r"), b"f/.ssh/x", 1),
        ((b"get", b"-r", b"--hidden"), b"f/.ssh/x", 0),
        ((b"get", b".a"), b".a", 0),
    ],
)
def test_an_unwanted_new_file_is_a_finding(
    arguments: tuple[bytes, ...], path: bytes, count: int
) -> None:
    assert len(list(check_written(call(*arguments), {path: THEIRS}, {THEIRS.digest}))) == count
    assert list(check_written(call(*arguments), {b"new": MINE}, ()))


@pytest.mark.parametrize("streams", [(Stream.PLAIN,) * 3, (Stream.SLOW, Stream.SLOW, Stream.SLOW)])
def test_a_command_of_a_case_is_run(streams: tuple[Stream, Stream, Stream], tmp_path: Path) -> None:
    case = CommandCase([LocalFile(b"a", 1, 0o644, 0, 0)], [b"nope", b"x"], b"", streams)
    ended = run_command(case, [], folder=tmp_path, environ={"HOME": str(tmp_path)})
    assert ended == Ended(2, b"", b'Unknown command "nope". `assay --help` lists all commands.\n')
