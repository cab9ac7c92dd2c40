"""Tests of upload tokens, with which a browser sends one file without an API key."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import httpx
import pytest

from service.auth.principals import digest_key
from service.auth.tokens import Purpose, Token, sign_token
from service.queries.keys import find_grant
from service.resources import Resources
from tests.e2e.conftest import Api, Owner
from tests.e2e.jobs import complete, declare, prove, put, put_parts
from tests.e2e.leaks import keep_link_secret, keep_secret
from tests.e2e.rights import FOR_TOKENS, Route
from tests.support.trust import TRUSTED

pytestmark = [pytest.mark.anyio, pytest.mark.one_store]

BODY = b"sent by a browser"


@pytest.fixture
async def declared(client: httpx.AsyncClient) -> dict[str, Any]:
    found = await declare(client, BODY)
    keep_secret([found["upload"]["token"]])
    return found


@pytest.fixture
async def browser(api: Api, declared: dict[str, Any]) -> AsyncIterator[httpx.AsyncClient]:
    """Yield an HTTP client that has only the upload token."""
    async with browsing(api, declared["upload"]["token"]) as client:
        yield client


def browsing(api: Api, token: str) -> httpx.AsyncClient:
    return httpx.AsyncClient(
        base_url=api.url, headers={"Authorization": f"Bearer {token}"}, timeout=30, verify=TRUSTED
    )


async def test_a_token_suffices_to_send_and_complete_its_file(
    browser: httpx.AsyncClient, declared: dict[str, Any]
) -> None:
    assert (await browser.get(f"/files/{declared['file']['id']}/metadata")).json()[
        "state"
    ] == "pending"
    renewed = (await browser.post(f"/files/{declared['file']['id']}/upload")).json()
    assert (await put(renewed, BODY)).status == 200
    assert (await complete(browser, declared))["state"] == "ready"


async def test_a_token_suffices_to_send_the_parts_of_its_file(
    api: Api, client: httpx.AsyncClient
) -> None:
    declared = await declare(client, BODY, multipart=True)
    keep_secret([declared["upload"]["token"]])
    async with browsing(api, declared["upload"]["token"]) as browser:
        await put_parts(browser, declared, BODY)
        assert (
            len((await browser.get(f"/files/{declared['file']['id']}/parts")).json()["parts"]) == 1
        )
        assert (await complete(browser, declared))["state"] == "ready"


@pytest.mark.parametrize("route", FOR_TOKENS, ids=lambda route: f"{route.method} {route.path}")
async def test_a_token_permits_no_access_to_other_files(
    browser: httpx.AsyncClient, client: httpx.AsyncClient, route: Route
) -> None:
    other = await declare(client, BODY)
    assert (
        await browser.request(route.method, route.asked.format(id=other["file"]["id"]))
    ).status_code == 403
    assert (await client.get(f"/files/{other['file']['id']}/metadata")).json()["state"] == "pending"


async def test_a_token_can_cancel_its_file_but_not_delete_a_proved_one(
    api: Api, client: httpx.AsyncClient, declared: dict[str, Any]
) -> None:
    async with browsing(api, declared["upload"]["token"]) as browser:
        assert (await browser.delete(f"/files/{declared['file']['id']}")).status_code == 204
        assert (await browser.delete(f"/files/{declared['file']['id']}")).status_code == 204
    second = await declare(client, BODY)
    assert (await put(second, BODY)).status == 200
    assert (await complete(client, second))["state"] == "ready"
    async with browsing(api, second["upload"]["token"]) as browser:
        assert (await browser.delete(f"/files/{second['file']['id']}")).status_code == 403
    assert (await client.get(f"/files/{second['file']['id']}")).content == BODY


async def test_an_expired_token_or_one_of_a_revoked_key_is_refused(
    api: Api,
    owner: Owner,
    browser: httpx.AsyncClient,
    declared: dict[str, Any],
    resources: Resources,
) -> None:
    grant = await find_grant(resources.pool, digest_key(owner.key))
    assert grant is not None
    file_id = UUID(declared["file"]["id"])
    over = Token(
        purpose=Purpose.UPLOAD,
        file_id=file_id,
        key_id=grant.key_id,
        expires_at=datetime(2026, 1, 1, tzinfo=UTC),
    )
    async with browsing(api, sign_token(api.settings.link_secret, over)) as late:
        assert (await late.get(f"/files/{file_id}/metadata")).status_code == 401
    assert (await browser.get(f"/files/{file_id}/metadata")).status_code == 200
    await resources.pool.execute(
        "UPDATE api_keys SET revoked_at = now() WHERE id = $1", grant.key_id
    )
    assert (await browser.get(f"/files/{file_id}/metadata")).status_code == 401


async def test_a_token_is_valid_for_one_purpose_only(
    api: Api, client: httpx.AsyncClient, anonymous: httpx.AsyncClient, declared: dict[str, Any]
) -> None:
    ready = await prove(client, BODY)
    made = await client.post(f"/files/{ready['id']}/links", json={"expires_in": 60})
    link = keep_link_secret(made.json()["url"])
    async with browsing(api, link) as browser:
        assert (await browser.get(f"/files/{ready['id']}/metadata")).status_code == 401
    assert (await anonymous.get(f"{api.url}/l/{declared['upload']['token']}")).status_code == 403
