"""Tests of signed links, which permit a download without a key and cannot be altered."""

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import httpx
import msgspec
import pytest

from service.auth.principals import digest_key
from service.auth.tokens import Purpose, Token, sign_token
from service.queries.keys import find_grant
from service.resources import Resources
from tests.e2e.conftest import Api, Owner, api_apart
from tests.e2e.jobs import declare, prove
from tests.e2e.leaks import keep_link_secret

pytestmark = [pytest.mark.anyio, pytest.mark.one_store]

BODY = b"the bytes of a shared file\n" * 100


async def make_link(
    client: httpx.AsyncClient, file: dict[str, Any], **asked: Any
) -> httpx.Response:
    return await client.post(f"/files/{file['id']}/links", json={"expires_in": 3600} | asked)


async def link_to(client: httpx.AsyncClient, file: dict[str, Any], **asked: Any) -> str:
    answer = await make_link(client, file, **asked)
    assert answer.status_code == 201, answer.text
    path: str = answer.json()["url"]
    keep_link_secret(path)
    return str(client.base_url.join(path))


async def test_a_link_serves_the_proved_bytes_without_a_key(
    api: Api, client: httpx.AsyncClient, anonymous: httpx.AsyncClient
) -> None:
    file = await prove(client, BODY)
    answer = await make_link(client, file, expires_in=60)
    path = answer.json()["url"]
    assert path.startswith("/l/")
    url = api.url + path
    left = datetime.fromisoformat(answer.json()["expires_at"]) - datetime.now(UTC)
    assert timedelta(seconds=50) < left <= timedelta(seconds=61)
    got = await anonymous.get(url)
    assert (got.status_code, got.content) == (200, BODY)
    assert got.headers["etag"] == f'"{file["hash"]}"'
    assert got.headers["content-disposition"].startswith("attachment;")
    assert got.headers["content-security-policy"].startswith("sandbox")
    head = await anonymous.head(url)
    assert (head.status_code, head.headers["content-length"]) == (200, str(len(BODY)))


async def test_a_link_honours_ranges_and_conditions(
    client: httpx.AsyncClient, anonymous: httpx.AsyncClient
) -> None:
    file = await prove(client, BODY)
    url = await link_to(client, file)
    part = await anonymous.get(url, headers={"Range": "bytes=10-19"})
    assert (part.status_code, part.content) == (206, BODY[10:20])
    assert (
        await anonymous.get(url, headers={"If-None-Match": f'"{file["hash"]}"'})
    ).status_code == 304
    assert (await anonymous.get(url, headers={"Range": f"bytes={len(BODY)}-"})).status_code == 416


async def test_a_link_shows_only_harmless_types_inline(
    client: httpx.AsyncClient, anonymous: httpx.AsyncClient
) -> None:
    file = await prove(client, BODY)
    shown = await anonymous.get(await link_to(client, file, disposition="inline"))
    assert shown.headers["content-disposition"].startswith("inline;")
    page = await prove(client, b"<script>alert(1)</script>", content_type="text/html")
    saved = await anonymous.get(await link_to(client, page, disposition="inline"))
    assert saved.headers["content-disposition"].startswith("attachment;")


@pytest.mark.parametrize(
    ("name", "segment"),
    [
        ("photo.jpg", "photo.jpg"),
        ("\u00e4 b.txt", "%C3%A4%20b.txt"),
        ("a?b#c&d;e%2F.txt", "a%3Fb%23c%26d%3Be%252F.txt"),
        ("...", "..."),
        ("\u20ac" * 85, "%E2%82%AC" * 85),
    ],
)
async def test_a_link_ends_with_the_encoded_filename(
    client: httpx.AsyncClient, anonymous: httpx.AsyncClient, name: str, segment: str
) -> None:
    url = await link_to(client, await prove(client, BODY, filename=name))
    assert url.rpartition("/")[2] == segment
    assert (await anonymous.get(url)).content == BODY


async def test_the_name_in_a_link_is_a_decoration(
    api: Api, client: httpx.AsyncClient, anonymous: httpx.AsyncClient
) -> None:
    token = keep_link_secret(await link_to(client, await prove(client, BODY)))
    for ending in (
        "",
        "/",
        "/other",
        "/a/b",
        "/a%2Fb",
        "/%2e%2e",
        "/%00",
        "/%ff",
        "/a?utm=%ff&utm",
    ):
        for method in ("GET", "HEAD"):
            answer = await anonymous.request(method, f"{api.url}/l/{token}{ending}")
            assert answer.status_code == 200
            assert answer.content == (BODY if method == "GET" else b"")
            assert "a.txt" in answer.headers["content-disposition"]
    assert (await anonymous.get(f"{api.url}/l/{token[:-1]}/{token}")).status_code == 403


async def test_only_a_link_for_embedding_can_be_shown_by_other_origins(
    client: httpx.AsyncClient, anonymous: httpx.AsyncClient
) -> None:
    file = await prove(client, BODY)
    policy = "cross-origin-resource-policy"
    for asked, expected in (
        ({}, "same-origin"),
        ({"embed": False}, "same-origin"),
        ({"embed": None, "disposition": None}, "same-origin"),
        ({"embed": True}, "cross-origin"),
        ({"embed": True, "disposition": "inline"}, "cross-origin"),
    ):
        url = await link_to(client, file, **asked)
        for answer in (
            await anonymous.get(url),
            await anonymous.head(url),
            await anonymous.get(url, headers={"If-None-Match": "*"}),
        ):
            assert answer.headers[policy] == expected
            assert answer.headers["cache-control"] == "private, no-cache, no-transform"
    assert (await client.get(f"/files/{file['id']}")).headers[policy] == "same-origin"


async def test_a_link_with_one_changed_character_is_refused(
    api: Api, client: httpx.AsyncClient, anonymous: httpx.AsyncClient
) -> None:
    token = keep_link_secret(await link_to(client, await prove(client, BODY)))
    url = f"{api.url}/l/{token}"
    for place in (-1, -50, -100):
        other = "A" if url[place] != "A" else "B"
        changed = url[:place] + other + (url[place + 1 :] if place != -1 else "")
        answer = await anonymous.get(changed)
        assert (answer.status_code, answer.json()["type"]) == (
            403,
            "urn:assay:problem:invalid-link",
        )
    for wrong in (url[:-1], url + "A", url.rpartition("/")[0] + "/x"):
        assert (await anonymous.get(wrong)).status_code == 403


async def test_an_expired_link_gets_410(
    api: Api,
    owner: Owner,
    client: httpx.AsyncClient,
    anonymous: httpx.AsyncClient,
    resources: Resources,
) -> None:
    file = await prove(client, BODY)
    grant = await find_grant(resources.pool, digest_key(owner.key))
    assert grant is not None
    over = Token(
        purpose=Purpose.DOWNLOAD,
        file_id=UUID(file["id"]),
        key_id=grant.key_id,
        expires_at=datetime(2026, 1, 1, tzinfo=UTC),
    )
    answer = await anonymous.get(f"{api.url}/l/{sign_token(api.settings.link_secret, over)}")
    assert (answer.status_code, answer.json()["type"]) == (410, "urn:assay:problem:link-ended")


async def test_a_link_is_refused_after_its_file_is_deleted_or_its_key_revoked(
    owner: Owner, client: httpx.AsyncClient, anonymous: httpx.AsyncClient, resources: Resources
) -> None:
    first, second = await prove(client, BODY), await prove(client, BODY)
    to_first, to_second = await link_to(client, first), await link_to(client, second)
    assert (await client.delete(f"/files/{first['id']}")).status_code == 204
    assert (await anonymous.get(to_first)).status_code == 410
    assert (await anonymous.get(to_second)).status_code == 200
    await resources.pool.execute(
        "UPDATE api_keys SET revoked_at = now() WHERE secret_sha256 = $1",
        digest_key(owner.key).digest,
    )
    answer = await anonymous.get(to_second)
    assert (answer.status_code, answer.json()["type"]) == (410, "urn:assay:problem:link-ended")


async def test_no_link_is_created_to_an_unproved_file(client: httpx.AsyncClient) -> None:
    declared = await declare(client, BODY)
    answer = await make_link(client, declared["file"])
    assert (answer.status_code, answer.json()["state"]) == (409, "pending")


async def test_no_link_is_created_to_a_file_of_another_owner(
    client: httpx.AsyncClient, intruder: httpx.AsyncClient
) -> None:
    file = await prove(client, BODY)
    assert (await make_link(intruder, file)).status_code == 404


@pytest.mark.parametrize(
    ("asked", "field"),
    [
        ({"expires_in": 0}, "expires_in"),
        ({"expires_in": 7 * 86400 + 1}, "expires_in"),
        ({"expires_in": "1h"}, "expires_in"),
        ({"disposition": "download"}, "disposition"),
        ({"embed": "yes"}, "embed"),
        ({"embed": 1}, "embed"),
        ({"until": 1}, "until"),
    ],
)
async def test_a_refused_link_names_the_wrong_field(
    client: httpx.AsyncClient, asked: dict[str, Any], field: str
) -> None:
    declared = await declare(client, BODY)
    answer = await make_link(client, declared["file"], **asked)
    assert (answer.status_code, answer.json()["errors"][0]["field"]) == (400, field)


async def test_no_link_is_created_without_a_secret(api: Api) -> None:
    async with api_apart(
        msgspec.structs.replace(api.settings, link_secret=()), with_worker=False
    ) as client:
        declared = await declare(client, BODY)
        assert declared["upload"]["token"] is None
        answer = await make_link(client, declared["file"])
    assert (answer.status_code, answer.json()["type"]) == (
        501,
        "urn:assay:problem:links-not-available",
    )
