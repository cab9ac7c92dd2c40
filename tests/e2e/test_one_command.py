"""Tests of `PUT /upload/{filename}`, by which one command uploads a file."""

import re
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest

from tests.e2e.jobs import digest

pytestmark = pytest.mark.anyio

BYTES = b"the bytes of a photo" * 50


@pytest.mark.parametrize("name", ["photo.jpg", "ä b.txt", "100%.txt", "a;b?c#d.txt"])
async def test_a_put_with_a_length_is_redirected_to_the_store(
    client: httpx.AsyncClient, anonymous: httpx.AsyncClient, name: str
) -> None:
    path = "/upload/" + httpx.URL("http://x", params={"n": name}).raw_path.partition(b"n=")[
        2
    ].decode().replace("+", "%20")
    answer = await client.put(path, content=BYTES)
    assert answer.status_code == 307
    assert answer.content == b""
    metadata = re.fullmatch(
        r'<(/files/[0-9a-f-]{36}/metadata)>; rel="describedby"', answer.headers["link"]
    )
    assert metadata
    assert "content-type" not in urlsplit(answer.headers["location"]).query.lower()
    assert (await anonymous.put(answer.headers["location"], content=BYTES)).status_code == 200
    file = (await client.get(metadata[1], params={"wait": 20})).json()
    assert (file["state"], file["filename"], file["hash"]) == ("ready", name, digest(BYTES))


async def test_a_put_without_a_length_is_streamed(client: httpx.AsyncClient) -> None:
    async def pieces() -> Any:
        yield BYTES[:10]
        yield BYTES[10:]

    answer = await client.put(
        "/upload/photo.jpg", content=pieces(), headers={"Content-Type": "image/jpeg"}
    )
    assert answer.status_code == 201, answer.text
    assert answer.json()["hash"] == digest(BYTES)
    assert answer.headers["location"] == f"/files/{answer.json()['id']}/metadata"


@pytest.mark.parametrize(
    ("sent", "expected"),
    [("text/plain;", "text/plain"), ("text/plain \t;  charset=utf-8", "text/plain; charset=utf-8")],
)
async def test_a_redirected_type_may_have_white_space_and_empty_parameters(
    client: httpx.AsyncClient, anonymous: httpx.AsyncClient, sent: str, expected: str
) -> None:
    headers = {"Content-Type": sent}
    answer = await client.put("/upload/a.txt", content=BYTES, headers=headers)
    assert answer.status_code == 307
    put = await anonymous.put(answer.headers["location"], content=BYTES, headers=headers)
    assert put.status_code == 200
    metadata = answer.headers["link"].partition("<")[2].partition(">")[0]
    file = (await client.get(metadata, params={"wait": 20})).json()
    assert (file["state"], file["content_type"]) == ("ready", expected)
