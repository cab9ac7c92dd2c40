"""Tests of pages of other origins.

The configured origins may use the API and read the headers that a client needs.
"""

from collections.abc import AsyncIterator

import httpx
import msgspec
import pytest

from service.settings import Origin
from tests.e2e.conftest import Api, api_apart

pytestmark = pytest.mark.anyio

PAGE = "https://app.example.com"
OTHER = "https://app.example.com.evil.example"
PREFLIGHT = {
    "Access-Control-Request-Method": "POST",
    "Access-Control-Request-Headers": "authorization,content-type",
}


@pytest.fixture
async def allowing(api: Api) -> AsyncIterator[httpx.AsyncClient]:
    settings = msgspec.structs.replace(
        api.settings, cors_origins=(Origin(PAGE), Origin("http://localhost:3000"))
    )
    async with api_apart(settings, with_worker=False) as client:
        yield client


async def test_a_page_of_a_configured_origin_may_declare_and_read_headers(
    allowing: httpx.AsyncClient,
) -> None:
    asked = await allowing.options("/files", headers={"Origin": PAGE} | PREFLIGHT)
    assert asked.status_code == 204
    assert asked.headers["access-control-allow-origin"] == PAGE
    assert {"authorization", "content-type"} <= {
        name.strip().lower() for name in asked.headers["access-control-allow-headers"].split(",")
    }
    assert "DELETE" in asked.headers["access-control-allow-methods"]
    answer = await allowing.post(
        "/files", json={"filename": "a.txt", "size": 1}, headers={"Origin": PAGE}
    )
    assert (answer.status_code, answer.headers["access-control-allow-origin"]) == (201, PAGE)
    exposed = {name.strip() for name in answer.headers["access-control-expose-headers"].split(",")}
    assert {
        "ETag",
        "Repr-Digest",
        "Content-Disposition",
        "Content-Range",
        "Location",
        "Link",
        "Retry-After",
    } <= exposed
    assert "Origin" in answer.headers["vary"]


async def test_a_page_of_a_configured_origin_may_read_refusals(allowing: httpx.AsyncClient) -> None:
    answer = await allowing.get(
        "/files", headers={"Origin": PAGE, "Authorization": "Bearer unknown"}
    )
    assert (answer.status_code, answer.headers["access-control-allow-origin"]) == (401, PAGE)


@pytest.mark.one_store
@pytest.mark.parametrize(
    "header",
    [
        "Content-Disposition",
        "If-Modified-Since",
        "If-Unmodified-Since",
        "traceparent",
        "Idempotency-Key",
        "Repr-Digest",
        "Last-Event-ID",
        "Range",
    ],
)
async def test_a_preflight_permits_each_header_that_routes_read(
    allowing: httpx.AsyncClient, header: str
) -> None:
    asked = await allowing.options(
        "/files/upload",
        headers={
            "Origin": PAGE,
            "Access-Control-Request-Method": "POST",
            "Access-Control-Request-Headers": f"authorization, {header.lower()}",
        },
    )
    assert asked.status_code == 204, asked.text
    allowed = asked.headers["access-control-allow-headers"].lower().split(", ")
    assert header.lower() in allowed


@pytest.mark.one_store
async def test_a_preflight_refuses_a_header_that_no_route_reads(
    allowing: httpx.AsyncClient,
) -> None:
    headers = PREFLIGHT | {"Origin": PAGE, "Access-Control-Request-Headers": "x-unknown"}
    assert (await allowing.options("/files", headers=headers)).status_code == 400


@pytest.mark.parametrize(
    "origin", [OTHER, "http://app.example.com", "null", "https://app.example.com:8443"]
)
async def test_a_page_of_another_origin_may_read_nothing(
    allowing: httpx.AsyncClient, origin: str
) -> None:
    assert (
        "access-control-allow-origin"
        not in (await allowing.get("/files", headers={"Origin": origin})).headers
    )
    asked = await allowing.options("/files", headers={"Origin": origin} | PREFLIGHT)
    assert "access-control-allow-origin" not in asked.headers


async def test_without_the_setting_there_is_no_header(client: httpx.AsyncClient) -> None:
    assert (
        "access-control-allow-origin"
        not in (await client.get("/files", headers={"Origin": PAGE})).headers
    )
