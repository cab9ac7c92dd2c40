"""Tests of `PATCH /files/{id}`, which changes the name and the metadata only."""

from typing import Any

import httpx
import pytest

from tests.e2e.jobs import declare, prove

pytestmark = pytest.mark.anyio

BODY = b"the bytes stay"


async def change(client: httpx.AsyncClient, file: dict[str, Any], **fields: Any) -> httpx.Response:
    return await client.patch(f"/files/{file['id']}", json=fields)


async def test_only_the_name_and_the_metadata_change(client: httpx.AsyncClient) -> None:
    file = await prove(client, BODY, metadata={"album": "summer", "place": "sea"})
    renamed = await change(client, file, filename="w\u00efnter.txt")
    assert renamed.json() == file | {"filename": "w\u00efnter.txt"}
    described = await change(client, file, metadata={"album": "winter"})
    assert described.json() == file | {
        "filename": "w\u00efnter.txt",
        "metadata": {"album": "winter"},
    }
    assert (await change(client, file)).json() == described.json()
    got = await client.get(f"/files/{file['id']}")
    assert got.content == BODY
    assert "filename*=UTF-8''w%C3%AFnter.txt" in got.headers["content-disposition"]


async def test_a_pending_file_can_be_renamed(client: httpx.AsyncClient) -> None:
    declared = await declare(client, BODY)
    assert (await change(client, declared["file"], filename="b.txt")).json()["filename"] == "b.txt"


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"filename": "a/b"}, "filename"),
        ({"metadata": {"a": "\x00"}}, "metadata"),
        ({"size": 1}, "size"),
        ({"state": "ready"}, "state"),
    ],
)
async def test_a_refusal_names_the_field_that_cannot_change(
    client: httpx.AsyncClient, fields: dict[str, Any], field: str
) -> None:
    declared = await declare(client, BODY)
    answer = await change(client, declared["file"], **fields)
    assert (answer.status_code, answer.json()["errors"][0]["field"]) == (400, field)
    assert (await client.get(f"/files/{declared['file']['id']}/metadata")).json() == declared[
        "file"
    ]


async def test_deleted_files_and_files_of_other_owners_do_not_change(
    client: httpx.AsyncClient, intruder: httpx.AsyncClient
) -> None:
    declared = await declare(client, BODY)
    assert (await change(intruder, declared["file"], filename="mine.txt")).status_code == 404
    await client.delete(f"/files/{declared['file']['id']}")
    assert (await change(client, declared["file"], filename="late.txt")).status_code == 410
