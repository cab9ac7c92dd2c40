"""Tests of the pages and filters of `GET /files`."""

import re
from typing import Any

import httpx
import pytest

from tests.e2e.jobs import declare, digest, prove

pytestmark = [pytest.mark.anyio, pytest.mark.one_store]

BYTES = b"the bytes of a photo" * 50


async def test_pages_lead_from_the_newest_file_to_the_oldest(client: httpx.AsyncClient) -> None:
    declared = [
        (await declare(client, BYTES, filename=f"{number}.txt"))["file"]["id"]
        for number in range(5)
    ]
    found: list[str] = []
    path = "/files?limit=2"
    pages = 0
    while path:
        answer = await client.get(path)
        pages += 1
        found += [file["id"] for file in answer.json()["files"]]
        assert (answer.json()["next"] is None) is ("link" not in answer.headers)
        link = re.fullmatch(r'<(/files\?[^>]*)>; rel="next"', answer.headers.get("link", ""))
        path = link[1] if link else ""
    assert found == declared[::-1]
    assert pages == 3


async def test_filters_find_what_they_name(client: httpx.AsyncClient) -> None:
    proved = await prove(client, BYTES, filename="a1.jpg", content_type="image/jpeg")
    other = (await declare(client, BYTES, filename="a2.txt", content_type="text/plain"))["file"]
    await declare(client, BYTES, filename="b.txt", content_type="text/plain")

    async def find(**filters: Any) -> list[str]:
        answer = await client.get("/files", params=filters)
        assert answer.status_code == 200, answer.text
        return [file["filename"] for file in answer.json()["files"]]

    assert await find(state="ready") == ["a1.jpg"]
    assert await find(state=["ready", "pending"]) == ["b.txt", "a2.txt", "a1.jpg"]
    assert await find(hash=digest(BYTES).upper()) == ["a1.jpg"]
    assert await find(filename="a*") == ["a2.txt", "a1.jpg"]
    assert await find(filename="a2.txt") == ["a2.txt"]
    assert await find(filename="a2") == []
    assert await find(content_type="text/plain") == ["b.txt", "a2.txt"]
    assert await find(content_type="text/plain", filename="a*") == ["a2.txt"]
    assert await find(content_type="text/*") == []
    assert await find(created_after=proved["created_at"], created_before=other["created_at"]) == []
    assert await find(created_after=other["created_at"]) == ["b.txt"]


async def test_a_file_without_a_declared_type_is_found_by_the_type_that_is_shown(
    client: httpx.AsyncClient,
) -> None:
    declared = (await declare(client, BYTES, content_type=None))["file"]
    await declare(client, BYTES, content_type="text/plain")
    found = await client.get("/files", params={"content_type": declared["content_type"]})
    assert [file["id"] for file in found.json()["files"]] == [declared["id"]]


async def test_deleted_files_are_listed_only_when_asked_for(client: httpx.AsyncClient) -> None:
    declared = (await declare(client, BYTES))["file"]["id"]
    await client.delete(f"/files/{declared}")
    assert (await client.get("/files")).json()["files"] == []
    listed = (await client.get("/files", params={"state": "deleted"})).json()["files"]
    assert [file["id"] for file in listed] == [declared]
