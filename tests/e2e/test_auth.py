"""Tests of keys and owners. The rights that each route requires are tested in test_rights.py."""

from datetime import timedelta
from typing import Any

import httpx
import pytest

from service.auth.principals import digest_key, make_key
from service.resources import Resources
from tests.e2e.conftest import Api, Owner
from tests.e2e.rights import NO_FILE, ON_A_FILE
from tests.support.trust import TRUSTED
from tests.support.waiting import until

pytestmark = [pytest.mark.anyio, pytest.mark.one_store]

FILE: dict[str, Any] = {"filename": "a.txt", "size": 1}


async def ask(
    api: Api, method: str, path: str, headers: dict[str, str], **about: Any
) -> httpx.Response:
    async with httpx.AsyncClient(base_url=api.url, headers=headers, verify=TRUSTED) as client:
        return await client.request(method, path, **about)


async def ask_to_declare(api: Api, asking: Owner, **fields: Any) -> httpx.Response:
    return await ask(api, "POST", "/files", asking.headers, json=FILE | fields)


async def test_wrong_expired_and_revoked_keys_get_the_same_response(
    api: Api, resources: Resources
) -> None:
    revoked, expired = api.new_owner(), api.new_owner(expires_in=timedelta(seconds=-1))
    await resources.pool.execute(
        "UPDATE api_keys SET revoked_at = now() WHERE secret_sha256 = $1",
        digest_key(revoked.key).digest,
    )
    answers = [
        await ask(api, "GET", "/files", {"Authorization": f"Bearer {key}"})
        for key in (make_key()[0], revoked.key, expired.key)
    ]
    assert [answer.status_code for answer in answers] == [401] * 3
    assert len({answer.content for answer in answers}) == 1


async def test_a_key_in_use_is_refused_after_its_revocation(api: Api, resources: Resources) -> None:
    owner = api.new_owner()

    async def ask_for_status() -> int:
        return (await ask(api, "GET", "/files", owner.headers)).status_code

    async def is_refused() -> bool:
        return await ask_for_status() == 401

    assert await ask_for_status() == 200
    await resources.pool.execute(
        "UPDATE api_keys SET revoked_at = now() WHERE secret_sha256 = $1",
        digest_key(owner.key).digest,
    )
    await until(is_refused)
    assert await ask_for_status() == 401


async def test_a_key_in_the_query_is_not_accepted(api: Api, owner: Owner) -> None:
    assert (await ask(api, "GET", f"/files?access_token={owner.key}", {})).status_code == 401


@pytest.mark.parametrize(("method", "path"), ON_A_FILE)
async def test_another_owners_file_gets_the_response_of_an_unknown_id(
    api: Api, owner: Owner, method: str, path: str
) -> None:
    file = (await ask_to_declare(api, owner)).json()["file"]["id"]
    other = api.new_owner()
    foreign, missing = [
        await ask(api, method, path.format(id=one), other.headers) for one in (file, NO_FILE)
    ]
    assert foreign.status_code == missing.status_code == 404
    assert foreign.content == missing.content
    kept = {"content-type", "content-length", "cache-control"}
    assert {name: foreign.headers[name] for name in kept & {*foreign.headers}} == {
        name: missing.headers[name] for name in kept & {*missing.headers}
    }
    assert (await ask(api, "GET", f"/files/{file}/metadata", owner.headers)).json()[
        "state"
    ] == "pending"


async def test_each_owner_lists_only_its_own_files(api: Api, owner: Owner) -> None:
    await ask_to_declare(api, owner)
    assert (await ask(api, "GET", "/files", api.new_owner().headers)).json()["files"] == []


async def test_an_admin_declares_lists_and_deletes_for_other_owners(
    api: Api, owner: Owner, admin: Owner
) -> None:
    declared = (await ask_to_declare(api, admin, owner=owner.name)).json()["file"]["id"]
    assert [
        file["id"] for file in (await ask(api, "GET", "/files", owner.headers)).json()["files"]
    ] == [declared]
    assert [
        file["id"]
        for file in (await ask(api, "GET", f"/files?owner={owner.name}", admin.headers)).json()[
            "files"
        ]
    ] == [declared]
    assert (await ask(api, "GET", "/files", admin.headers)).json()["files"] == []
    assert (await ask(api, "DELETE", f"/files/{declared}", admin.headers)).status_code == 204


async def test_only_an_admin_may_name_another_owner(api: Api, owner: Owner) -> None:
    other = api.new_owner()
    assert (await ask_to_declare(api, owner, owner=other.name)).status_code == 403
    assert (await ask(api, "GET", f"/files?owner={other.name}", owner.headers)).status_code == 403
    assert (await ask(api, "GET", f"/events?owner={other.name}", owner.headers)).status_code == 403
    assert (await ask_to_declare(api, owner, owner=owner.name)).status_code == 201
