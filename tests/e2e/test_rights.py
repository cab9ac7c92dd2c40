"""Tests of the scopes of every route.

Each route is requested without a key, with each scope, and with an upload token.
"""

import re

import httpx
import pytest

from service.app import create_app
from tests.e2e.conftest import Api, Owner
from tests.e2e.jobs import declare, prove
from tests.e2e.leaks import keep_link_secret, keep_secret
from tests.e2e.rights import (
    FOR_TOKENS,
    GUARDED,
    NO_FILE,
    NOT_FOR_TOKENS,
    PAGE_FILE,
    ROUTES,
    SCHEMA_FILE,
    UNGUARDED,
    Route,
)
from tests.support.trust import TRUSTED

pytestmark = [pytest.mark.anyio, pytest.mark.one_store]

BODY = b"whose is this?"
REFUSED = (401, 403)
SCOPES = ("read", "write")


def name(route: Route) -> str:
    return f"{route.method} {route.path}"


async def ask(api: Api, route: Route, token: str | None, file_id: str = NO_FILE) -> httpx.Response:
    """Return the response to a request without a body. The body of an event stream is not read."""
    headers = {} if token is None else {"Authorization": f"Bearer {token}"}
    async with (
        httpx.AsyncClient(base_url=api.url, headers=headers, timeout=30, verify=TRUSTED) as client,
        client.stream(route.method, route.asked.format(id=file_id)) as answer,
    ):
        if answer.headers.get("content-type") != "text/event-stream":
            await answer.aread()
        return answer


def collapse(path: str) -> str:
    """Return the path of a route in the form of the table."""
    if path.startswith("/page/"):
        return PAGE_FILE
    if path.startswith("/schema/"):
        return SCHEMA_FILE
    return re.sub(r":\w+}", "}", path)


async def test_the_table_has_every_route_of_the_app(api: Api) -> None:
    app = create_app(api.settings)
    found = {
        (str(method), collapse(route.path))
        for route in app.routes
        for method in route.methods
        if method != "OPTIONS"
    }
    assert found == {(route.method, route.path) for route in ROUTES}
    assert len(ROUTES) == len(found)


@pytest.mark.parametrize("route", GUARDED, ids=name)
async def test_a_guarded_route_gets_401_without_a_key(api: Api, route: Route) -> None:
    answer = await ask(api, route, None)
    assert answer.status_code == 401
    assert answer.headers["www-authenticate"].startswith("Bearer")


@pytest.mark.parametrize("route", UNGUARDED, ids=name)
async def test_a_key_makes_no_difference_to_unguarded_routes(api: Api, route: Route) -> None:
    without, with_key = await ask(api, route, None), await ask(api, route, api.new_owner().key)
    assert without.status_code == with_key.status_code
    assert (without.status_code == 401) == (name(route) == "POST /webhooks/minio")


@pytest.mark.parametrize("route", GUARDED, ids=name)
async def test_each_scope_permits_only_the_routes_that_declare_it(api: Api, route: Route) -> None:
    for scope in SCOPES:
        answer = await ask(api, route, api.new_owner(scopes=(scope,)).key)
        if scope in route.scopes:
            assert answer.status_code not in REFUSED, answer.text
        else:
            assert answer.status_code == 403
            assert (
                route.method == "HEAD"
                or f"lacks the scope {' or '.join(route.scopes)}" in answer.json()["detail"]
            )
    assert (await ask(api, route, api.new_owner(scopes=("admin",)).key)).status_code not in REFUSED


async def make_token(client: httpx.AsyncClient) -> tuple[str, str]:
    """Declare a file, and return its id and its upload token."""
    declared = await declare(client, BODY)
    keep_secret([declared["upload"]["token"]])
    return declared["file"]["id"], declared["upload"]["token"]


@pytest.mark.parametrize("route", FOR_TOKENS, ids=name)
async def test_an_upload_token_permits_the_routes_that_declare_it(
    api: Api, client: httpx.AsyncClient, route: Route
) -> None:
    file_id, token = await make_token(client)
    assert (await ask(api, route, token, file_id)).status_code not in REFUSED


@pytest.mark.parametrize("route", NOT_FOR_TOKENS, ids=name)
async def test_an_upload_token_permits_no_other_route(
    api: Api, client: httpx.AsyncClient, route: Route
) -> None:
    file_id, token = await make_token(client)
    answer = await ask(api, route, token, file_id)
    assert answer.status_code == 403
    assert route.method == "HEAD" or "upload token" in answer.json()["detail"]


async def test_options_of_a_guarded_path_needs_a_key(api: Api) -> None:
    for route in GUARDED:
        options = route._replace(method="OPTIONS")
        assert (await ask(api, options, None)).status_code == 401
        assert (await ask(api, options, api.new_owner().key)).status_code == 204


async def make_link(api: Api, key: str, file_id: str) -> httpx.Response:
    async with httpx.AsyncClient(
        base_url=api.url, headers={"Authorization": f"Bearer {key}"}, verify=TRUSTED
    ) as client:
        return await client.post(f"/files/{file_id}/links", json={"expires_in": 60})


async def test_only_a_key_with_the_scope_read_can_share_a_file(
    api: Api, owner: Owner, client: httpx.AsyncClient, anonymous: httpx.AsyncClient
) -> None:
    file = await prove(client, BODY)
    keys = {scope: api.new_key(owner.name, scopes=(scope,)) for scope in ("read", "write")}
    refused = await make_link(api, keys["write"], file["id"])
    assert (refused.status_code, refused.json()["type"]) == (403, "urn:assay:problem:forbidden")
    made = await make_link(api, keys["read"], file["id"])
    assert made.status_code == 201
    keep_link_secret(made.json()["url"])
    assert (await anonymous.get(api.url + made.json()["url"])).content == BODY
