"""Request bodies and the forms that they contain."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest

from service.http import request_bodies
from service.http.request_bodies import FormFile, FormReader, Pace, find_boundary, read_body
from service.problems import (
    IncompleteBody,
    InvalidRequest,
    MalformedBody,
    Problem,
    SlowSender,
    UnsupportedMediaType,
)

pytestmark = pytest.mark.anyio

HEAD = (
    b'--b\r\nContent-Disposition: form-data; name="file"; filename="a.txt"\r\n'
    b"Content-Type: text/plain; charset=utf-8\r\n\r\n"
)


class Messages:
    """An ASGI `receive` that returns these messages and then waits indefinitely."""

    def __init__(self, *messages: dict[str, Any]) -> None:
        self.left = list(messages)

    async def __call__(self) -> dict[str, Any]:
        if not self.left:
            await asyncio.Event().wait()
        return self.left.pop(0)


def request(body: bytes, *, more: bool) -> dict[str, Any]:
    return {"type": "http.request", "body": body, "more_body": more}


async def collect(pieces: AsyncIterator[bytes]) -> bytes:
    return b"".join([piece async for piece in pieces])


async def read_form(form: FormReader) -> bytes:
    await form.open()
    return await collect(form.read())


async def in_pieces(body: bytes, size: int) -> AsyncIterator[bytes]:
    for start in range(0, len(body), size):
        yield body[start : start + size]


async def test_a_body_is_read_to_its_end() -> None:
    receive = Messages(
        request(b"ab", more=True), request(b"", more=True), request(b"c", more=False)
    )
    assert await collect(read_body(receive, length=3, find_rate=lambda: 1)) == b"abc"


@pytest.mark.parametrize(
    ("messages", "length"),
    [
        ([request(b"ab", more=True), {"type": "http.disconnect"}], 3),
        ([request(b"ab", more=False)], 3),
        ([{"type": "http.disconnect"}], None),
    ],
)
async def test_a_body_that_ends_early_is_incomplete(
    messages: Sequence[dict[str, Any]], length: int | None
) -> None:
    with pytest.raises(IncompleteBody):
        await collect(read_body(Messages(*messages), length=length, find_rate=lambda: 1))


async def test_a_silent_sender_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(request_bodies, "WINDOW_SECONDS", 0.05)
    with pytest.raises(SlowSender) as refused:
        await collect(
            read_body(Messages(request(b"a", more=True)), length=None, find_rate=lambda: 1000)
        )
    assert refused.value.headers == {"Connection": "close"}


async def test_a_sender_that_is_fast_enough_starts_a_new_window(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(request_bodies, "WINDOW_SECONDS", 1.0)
    pace = Pace(lambda: 10)
    pace.waited = 0.9999
    pace.received = 10

    async def receive() -> dict[str, Any]:
        await asyncio.sleep(0)
        pace.waited += 0.001
        return request(b"", more=True)

    await pace.wait_for(receive)
    assert (pace.waited, pace.received) == (0.0, 0)


async def test_a_pause_after_enough_bytes_is_tolerated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(request_bodies, "WINDOW_SECONDS", 0.05)
    pace = Pace(lambda: 10)
    pace.received = 1000
    windows: list[float] = []

    async def receive() -> dict[str, Any]:
        windows.append(pace.received)
        if len(windows) == 1:
            await asyncio.Event().wait()  # until the window is over
        return request(b"a", more=True)

    assert await pace.wait_for(receive) == request(b"a", more=True)
    assert windows == [1000, 0]


@pytest.mark.parametrize("size", [1, 7, 1000])
async def test_the_file_of_a_form_is_read(size: int) -> None:
    body = HEAD + b"bytes\r\n--of a file" + b"\r\n--b--\r\n"
    form = FormReader(in_pieces(body, size), "b")
    assert await form.open() == FormFile("a.txt", "text/plain; charset=utf-8")
    assert await collect(form.read()) == b"bytes\r\n--of a file"


async def test_an_empty_file_is_valid() -> None:
    form = FormReader(in_pieces(HEAD + b"\r\n--b--", 100), "b")
    await form.open()
    assert await collect(form.read()) == b""


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (b"", IncompleteBody),
        (b"no form at all", IncompleteBody),
        (b"--b--\r\n", MalformedBody),
        (HEAD.replace(b'"file"', b'"photo"') + b"x\r\n--b--", MalformedBody),
        (HEAD + b"x\r\n" + HEAD + b"y\r\n--b--", MalformedBody),
        (HEAD + b"x\r\n" + HEAD.replace(b'"file"', b'"album"') + b"y\r\n--b--", MalformedBody),
        (HEAD + b"x", IncompleteBody),
        (HEAD[:30], IncompleteBody),
        (b"--b\r\nContent-Type: text/plain\r\n\r\nx\r\n--b--", MalformedBody),
    ],
)
async def test_an_invalid_form_is_refused(body: bytes, kind: type[Exception]) -> None:
    form = FormReader(in_pieces(body, 16), "b")
    with pytest.raises(kind):
        await read_form(form)


def part(*headers: str) -> bytes:
    """Return a form with one part, whose headers are bytes decoded as Latin-1."""
    lines = "\r\n".join(["--b", *headers]).encode("latin-1")
    return lines + b"\r\n\r\nw6kudHh0\r\n--b--"


NAMED = 'Content-Disposition: form-data; name="file"; filename="a"'


@pytest.mark.parametrize(
    ("disposition", "expected"),
    [
        ("filename=\"=?utf-8?B?w6kudHh0?=\"; filename*=utf-8''%C3%A9.txt", "\xe9.txt"),
        ('filename="=?utf-8?B?w6kudHh0?="', "\xe9.txt"),
        ("filename*=UTF-8''%C3%A9.txt", "\xe9.txt"),
        ('filename="\u20ac.txt"'.encode().decode("latin-1"), "\u20ac.txt"),
        ('filename="\xe9.txt"', "\xe9.txt"),
        ("filename=a.txt ; ", "a.txt"),
        ('filename=""', None),
        ("", None),
    ],
)
async def test_the_name_in_a_form_is_read_in_every_form(
    disposition: str, expected: str | None
) -> None:
    body = part(f'Content-Disposition: form-data\t;\tname="file" ;{disposition}')
    assert (await FormReader(in_pieces(body, 100), "b").open()).filename == expected


@pytest.mark.parametrize("value", ["8bit", "7BIT", "binary"])
async def test_a_transfer_encoding_that_changes_nothing_is_accepted(value: str) -> None:
    body = part(NAMED, f"Content-Transfer-Encoding: {value}", "Content-Encoding: identity")
    assert await read_form(FormReader(in_pieces(body, 100), "b")) == b"w6kudHh0"


@pytest.mark.parametrize(
    ("headers", "kind", "field"),
    [
        (
            [NAMED, "Content-Transfer-Encoding: base64"],
            InvalidRequest,
            "file: Content-Transfer-Encoding",
        ),
        (
            [NAMED, "content-transfer-encoding: quoted-printable"],
            InvalidRequest,
            "file: Content-Transfer-Encoding",
        ),
        ([NAMED, "Content-Encoding: gzip"], UnsupportedMediaType, "file: Content-Encoding"),
        ([NAMED, NAMED], MalformedBody, "file: Content-Disposition"),
        (
            [NAMED, "Content-Type: text/plain", "Content-Type: text/html"],
            MalformedBody,
            "file: Content-Type",
        ),
        ([f"{NAMED}; filename=b"], InvalidRequest, "file: Content-Disposition"),
        ([f"{NAMED}; filename*=x"], InvalidRequest, "file: Content-Disposition"),
        (
            ['Content-Disposition: form-data; name="\xc3\xa9"'],
            MalformedBody,
            "\xe9",
        ),
    ],
)
async def test_what_a_part_says_is_refused_if_it_cannot_hold(
    headers: list[str], kind: type[Problem], field: str
) -> None:
    with pytest.raises(kind) as refused:
        await FormReader(in_pieces(part(*headers), 100), "b").open()
    assert [error.field for error in refused.value.errors] == [field]
    assert "Error(" not in refused.value.detail


@pytest.mark.parametrize("boundary", ["", "a\nb"])
async def test_an_invalid_boundary_is_refused(boundary: str) -> None:
    with pytest.raises(MalformedBody):
        await FormReader(in_pieces(HEAD, 16), boundary).open()


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ("multipart/form-data; boundary=b", "b"),
        ('Multipart/Form-Data; boundary="a b"', "a b"),
        ("multipart/form-data", ""),
        ("text/plain", None),
        ("", None),
        ("multipart/form-data ;\tboundary=b ; ", "b"),
        ('multipart/form-data; charset=utf-8; boundary="a\\"b";', 'a"b'),
        ("text/plain; boundary=b", None),
    ],
)
def test_a_form_is_recognized_by_its_type(header: str, expected: str | None) -> None:
    assert find_boundary(header) == expected


@pytest.mark.parametrize("parameters", ["boundary=a; boundary=b", "boundary", 'boundary="a'])
def test_a_form_with_a_malformed_boundary_is_refused(parameters: str) -> None:
    with pytest.raises(InvalidRequest, match="Content-Type"):
        find_boundary(f"multipart/form-data; {parameters}")
