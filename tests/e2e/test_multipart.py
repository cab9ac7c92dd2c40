"""Tests of multipart uploads over HTTP and each store.

Parts are sent, resumed, assembled and proved. Wrong and missing parts are refused.
"""

import asyncio
import secrets
from typing import Any

import httpx
import pytest

from service.model import MIB
from service.resources import Resources
from service.uploads.declaring import PART_BYTES
from tests.e2e.conftest import Api
from tests.e2e.jobs import (
    check_all,
    check_served,
    complete,
    cut,
    declare,
    digest,
    find_key,
    look_at,
    put_part,
    put_parts,
    read_metadata,
    sign_parts,
    sweep_incoming,
)
from tests.support.invariants import check_upload_aborted
from tests.support.waiting import until

pytestmark = pytest.mark.anyio

BODY = secrets.token_bytes(64 * 1024) * (PART_BYTES // (64 * 1024)) + b"and what is left"
"""The bytes of a file of two parts."""


@pytest.fixture
async def declared(client: httpx.AsyncClient) -> dict[str, Any]:
    return await declare(client, BODY, multipart=True)


def problem(answer: httpx.Response) -> str:
    kind: str = answer.json()["type"].rpartition(":")[2]
    return kind


async def read_upload_id(resources: Resources, declared: dict[str, Any]) -> str | None:
    upload_id: str | None = await resources.pool.fetchval(
        "SELECT upload_id FROM files WHERE id = $1", declared["file"]["id"]
    )
    return upload_id


async def test_a_file_that_is_sent_in_parts_is_proved(
    client: httpx.AsyncClient, declared: dict[str, Any], resources: Resources
) -> None:
    assert declared["upload"]["multipart"] == {"part_size": PART_BYTES, "parts": 2}
    assert declared["upload"]["expires_at"] == declared["file"]["expires_at"]
    await put_parts(client, declared, BODY)
    assert (await complete(client, declared))["state"] == "ready"
    await check_served(client, resources, declared, BODY)
    await sweep_incoming(resources, declared)
    await check_all(resources)


async def test_the_event_of_the_assembled_object_is_an_arrival_report(
    client: httpx.AsyncClient, declared: dict[str, Any], resources: Resources
) -> None:
    await put_parts(client, declared, BODY)
    upload_id, key = await read_upload_id(resources, declared), await find_key(resources, declared)
    parts = await resources.incoming.list_parts(key, upload_id or "")
    # The API completes the upload and then records the arrival. Here, it dies in between.
    await resources.incoming.complete_upload(
        key, upload_id or "", [(part.number, part.etag) for part in parts]
    )
    assert (await read_metadata(client, declared, wait=20))["state"] == "ready"
    await check_served(client, resources, declared, BODY)


async def test_a_client_that_resumes_sends_only_the_missing_parts(
    client: httpx.AsyncClient, declared: dict[str, Any], resources: Resources
) -> None:
    path = f"/files/{declared['file']['id']}"
    assert (await client.get(f"{path}/parts")).json() == {"parts": []}
    pieces = cut(declared, BODY)
    [second] = await sign_parts(client, declared, 2)
    assert (second["number"], second["size"]) == (2, len(pieces[2]))
    assert (await put_part(second, pieces[2])).status == 200
    [found] = (await client.get(f"{path}/parts")).json()["parts"]
    assert (found["number"], found["size"]) == (2, len(pieces[2]))
    renewed = (await client.post(f"{path}/upload")).json()
    assert renewed["upload"]["multipart"] == declared["upload"]["multipart"]
    refused = await client.post(f"{path}/complete")
    assert (refused.status_code, problem(refused)) == (409, "incomplete-parts")
    assert refused.json()["missing"] == [1]
    assert (refused.json()["missing_count"], refused.json()["wrong_size_count"]) == (1, 0)
    [first] = await sign_parts(client, declared, 1)
    assert (await put_part(first, pieces[1])).status == 200
    assert (await complete(client, declared))["hash"] == digest(BODY)
    await check_served(client, resources, declared, BODY)


async def test_a_part_that_is_sent_again_replaces_the_earlier_one(
    client: httpx.AsyncClient, declared: dict[str, Any], resources: Resources
) -> None:
    pieces = cut(declared, BODY)
    [second] = await sign_parts(client, declared, 2)
    assert (await put_part(second, b"x" * len(pieces[2]))).status == 200
    await put_parts(client, declared, BODY)
    assert (await complete(client, declared))["hash"] == digest(BODY)
    await check_served(client, resources, declared, BODY)


async def test_the_store_refuses_a_part_of_another_size_or_digest(
    client: httpx.AsyncClient, declared: dict[str, Any]
) -> None:
    piece = cut(declared, BODY)[2]
    [part] = await sign_parts(client, declared, 2, sha256=digest(piece).upper())
    assert (await put_part(part, piece[:-1])).status in (400, 403)
    assert (await put_part(part, b"y" * len(piece))).status == 400
    assert (await client.get(f"/files/{declared['file']['id']}/parts")).json() == {"parts": []}
    assert (await put_part(part, piece)).status == 200


async def test_the_refusal_of_complete_names_parts_of_a_wrong_size(
    client: httpx.AsyncClient, declared: dict[str, Any], resources: Resources
) -> None:
    await put_parts(client, declared, BODY)
    key, upload_id = await find_key(resources, declared), await read_upload_id(resources, declared)
    await asyncio.to_thread(
        resources.incoming.put_part, key, upload_id or "", 2, b"short", timeout_seconds=10
    )
    refused = await client.post(f"/files/{declared['file']['id']}/complete")
    assert (refused.status_code, problem(refused)) == (409, "incomplete-parts")
    assert (refused.json()["wrong_size"], refused.json()["missing"]) == ([2], [])
    assert (await look_at(resources, declared)).row["lease"] is None


@pytest.mark.parametrize(
    ("wanted", "field"),
    [
        ([{"number": 0}], "parts[0].number"),
        ([{"number": 3}], "parts[0].number"),
        ([{"number": 1}, {"number": 1}], "parts[1].number"),
        ([{"number": "1"}], "parts[0].number"),
        ([{"number": 1, "sha256": "abc"}], "parts[0].sha256"),
        ([{"number": 1, "size": 5}], "parts[0].size"),
        ([], "parts"),
        ([{"number": 1}] * 1001, "parts"),
    ],
    ids=[
        "zero",
        "beyond the count",
        "twice",
        "text",
        "no digest",
        "unknown field",
        "none",
        "too many",
    ],
)
async def test_a_refused_request_for_parts_names_the_wrong_field(
    client: httpx.AsyncClient, declared: dict[str, Any], wanted: list[dict[str, Any]], field: str
) -> None:
    answer = await client.post(f"/files/{declared['file']['id']}/parts", json={"parts": wanted})
    assert (answer.status_code, problem(answer)) == (400, "invalid-request"), answer.text
    assert [error["field"].replace("[...]", "[0]") for error in answer.json()["errors"]] == [field]


async def test_a_thousand_parts_with_digests_fit_a_request(client: httpx.AsyncClient) -> None:
    answer = await client.post(
        "/files", json={"filename": "large", "size": 1000 * PART_BYTES, "multipart": True}
    )
    parts = await sign_parts(client, answer.json(), *range(1, 1001), sha256=digest(b""))
    assert [part["number"] for part in parts] == list(range(1, 1001))
    too_large = await client.post(
        f"/files/{answer.json()['file']['id']}/parts",
        content=b" " * 300_000,
        headers={"Content-Type": "application/json"},
    )
    assert (too_large.status_code, too_large.json()["limit"]) == (413, 256 * 1024)


async def test_a_file_in_one_put_has_no_parts(client: httpx.AsyncClient) -> None:
    declared = await declare(client, b"small")
    for answer in (
        await client.post(
            f"/files/{declared['file']['id']}/parts", json={"parts": [{"number": 1}]}
        ),
        await client.get(f"/files/{declared['file']['id']}/parts"),
    ):
        assert (answer.status_code, problem(answer)) == (409, "not-multipart")


async def test_a_large_file_is_sent_in_parts_unless_the_client_wants_one_put(
    client: httpx.AsyncClient, api: Api
) -> None:
    above = api.settings.multipart_above

    async def offer(size: int, **fields: Any) -> dict[str, Any]:
        answer = await client.post("/files", json={"filename": "a", "size": size, **fields})
        assert answer.status_code == 201, answer.text
        upload: dict[str, Any] = answer.json()["upload"]
        return upload

    assert "url" in await offer(above)
    assert (await offer(above + 1))["multipart"] == {"part_size": PART_BYTES, "parts": 5}
    assert "url" in await offer(above + 1, multipart=False)
    assert (await offer(0, multipart=True))["multipart"] == {"part_size": PART_BYTES, "parts": 1}
    assert (await offer(5 * 1024**4))["multipart"] == {"part_size": 525 * MIB, "parts": 9987}
    assert (
        await client.post("/files", json={"filename": "a", "size": 5 * 1024**4 + 1})
    ).status_code == 413
    assert (
        await client.post(
            "/files", json={"filename": "a", "size": 5 * 1024**3 + 1, "multipart": False}
        )
    ).status_code == 413


async def test_an_empty_file_has_one_part(client: httpx.AsyncClient, resources: Resources) -> None:
    declared = await declare(client, b"", multipart=True)
    await put_parts(client, declared, b"")
    assert (await complete(client, declared))["state"] == "ready"
    await check_served(client, resources, declared, b"")


async def test_a_digest_that_complete_sends_is_compared(
    client: httpx.AsyncClient, resources: Resources
) -> None:
    declared = await declare(client, BODY, multipart=True)
    await put_parts(client, declared, BODY)
    answer = await client.post(
        f"/files/{declared['file']['id']}/complete",
        params={"wait": 20},
        json={"sha256": digest(b"other")},
    )
    assert (answer.status_code, answer.json()["state"]) == (200, "rejected")
    assert answer.json()["rejection"]["reason"] == "digest-mismatch"
    await sweep_incoming(resources, declared)
    await check_all(resources)


async def test_repeated_and_concurrent_complete_requests_have_one_outcome(
    client: httpx.AsyncClient, declared: dict[str, Any], resources: Resources
) -> None:
    await put_parts(client, declared, BODY)
    answers = await asyncio.gather(
        *(
            client.post(f"/files/{declared['file']['id']}/complete", params={"wait": 20})
            for _ in range(5)
        )
    )
    assert [(answer.status_code, answer.json()["state"]) for answer in answers] == [
        (200, "ready")
    ] * 5
    assert (await complete(client, declared))["state"] == "ready"
    await check_served(client, resources, declared, BODY)


async def test_concurrent_requests_for_parts_belong_to_one_upload(
    client: httpx.AsyncClient, declared: dict[str, Any], resources: Resources
) -> None:
    asked = await asyncio.gather(*(sign_parts(client, declared, 1) for _ in range(8)))
    ids = {httpx.URL(part["url"]).params["uploadId"] for [part] in asked}
    assert ids == {await read_upload_id(resources, declared)}


async def test_a_final_file_accepts_no_parts(
    client: httpx.AsyncClient, declared: dict[str, Any]
) -> None:
    await put_parts(client, declared, BODY)
    assert (await complete(client, declared))["state"] == "ready"
    path = f"/files/{declared['file']['id']}"
    for answer in (
        await client.post(f"{path}/parts", json={"parts": [{"number": 1}]}),
        await client.get(f"{path}/parts"),
    ):
        assert (answer.status_code, problem(answer), answer.json()["state"]) == (
            409,
            "already-uploaded",
            "ready",
        )
    await client.delete(path)
    for answer in (
        await client.post(f"{path}/parts", json={"parts": [{"number": 1}]}),
        await client.get(f"{path}/parts"),
    ):
        assert (answer.status_code, problem(answer)) == (410, "gone")


async def test_a_deleted_file_leaves_no_parts(
    client: httpx.AsyncClient, declared: dict[str, Any], resources: Resources
) -> None:
    await put_parts(client, declared, BODY)
    key, upload_id = await find_key(resources, declared), await read_upload_id(resources, declared)
    assert (await client.delete(f"/files/{declared['file']['id']}")).status_code == 204

    async def aborted() -> bool:
        try:
            await check_upload_aborted(resources.incoming, key, upload_id or "")
        except AssertionError:
            return False
        return True

    await until(aborted)
    assert (await client.post(f"/files/{declared['file']['id']}/complete")).status_code == 410
    await check_all(resources)


async def test_an_upload_that_the_store_has_dropped_is_lost(
    client: httpx.AsyncClient, declared: dict[str, Any], resources: Resources
) -> None:
    await put_parts(client, declared, BODY)
    await resources.incoming.abort_upload(
        await find_key(resources, declared), await read_upload_id(resources, declared) or ""
    )
    path = f"/files/{declared['file']['id']}"
    for answer in (await client.post(f"{path}/complete"), await client.get(f"{path}/parts")):
        assert (answer.status_code, problem(answer)) == (409, "upload-lost")
    assert (await read_metadata(client, declared))["state"] == "pending"


async def test_a_parts_url_cannot_be_changed_to_another_part_or_upload(
    client: httpx.AsyncClient, declared: dict[str, Any]
) -> None:
    """Check that the signature of the URL covers the part number and the upload id."""
    [part] = await sign_parts(client, declared, 2)
    piece = cut(declared, BODY)[2]
    assert (
        await put_part({**part, "url": part["url"].replace("partNumber=2", "partNumber=1")}, piece)
    ).status == 403
    assert (
        await put_part({**part, "url": part["url"].replace("uploadId=", "uploadId=x")}, piece)
    ).status == 403


async def test_another_owner_gets_404_for_parts(
    intruder: httpx.AsyncClient, declared: dict[str, Any]
) -> None:
    path = f"/files/{declared['file']['id']}/parts"
    assert (await intruder.get(path)).status_code == 404
    assert (await intruder.post(path, json={"parts": [{"number": 1}]})).status_code == 404
