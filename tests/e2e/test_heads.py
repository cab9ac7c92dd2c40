"""Tests of HEAD, which each route with GET has (RFC 9110, section 9.3.2)."""

import asyncio

import httpx
import pytest

from tests.e2e.conftest import Api
from tests.e2e.jobs import stream
from tests.e2e.rights import READABLE, Route
from tests.support.wire import Wire

pytestmark = [pytest.mark.anyio, pytest.mark.one_store]

CHANGING = {"date", "x-request-id"}
"""The fields that differ between two responses to the same request."""


async def read_fields(
    client: httpx.AsyncClient, method: str, path: str
) -> tuple[int, dict[str, str]]:
    """Return the status and the fields of the response. The body of GET is not read."""
    async with client.stream(method, path) as answer:
        if method == "HEAD":
            assert await answer.aread() == b""
        fields = {name: value for name, value in answer.headers.items() if name not in CHANGING}
        if path == "/metrics":
            assert int(fields.pop("content-length")) > 0  # each request changes the metrics
        return answer.status_code, fields


@pytest.mark.parametrize("route", READABLE, ids=lambda route: route.path)
async def test_head_has_the_status_and_the_fields_of_get(
    client: httpx.AsyncClient, route: Route
) -> None:
    path = route.asked.format(id=(await stream(client, b"bytes"))["id"])
    assert await read_fields(client, "HEAD", path) == await read_fields(client, "GET", path)


async def test_head_sends_no_body_and_keeps_the_connection(
    api: Api, client: httpx.AsyncClient
) -> None:
    paths = ("/health/live", "/events", "/files", "/schema", "/files/none", "/none")
    fields = f"Host: a\r\nAuthorization: {client.headers['authorization']}"

    def ask_all() -> list[int]:
        with Wire(api.url) as wire:
            for path in paths:
                wire.send(f"HEAD {path} HTTP/1.1\r\n{fields}\r\n\r\n".encode())
            return [wire.read_answer("HEAD").status for _ in paths]

    assert await asyncio.to_thread(ask_all) == [200, 200, 200, 200, 404, 404]


@pytest.mark.parametrize(
    ("path", "allowed"),
    [("/files/{id}/links", {"POST"}), ("/upload/a", {"PUT"}), ("/files/upload", {"POST"})],
)
async def test_head_of_a_path_without_get_is_refused(
    client: httpx.AsyncClient, path: str, allowed: set[str]
) -> None:
    answer = await client.head(path.format(id="01234567-89ab-7def-8123-456789abcdef"))
    assert answer.status_code == 405
    assert set(answer.headers["allow"].split(", ")) - {"OPTIONS"} == allowed


async def test_a_refusal_of_another_method_names_head(client: httpx.AsyncClient) -> None:
    answer = await client.put("/files")
    assert answer.status_code == 405
    assert {"GET", "HEAD", "POST"} <= set(answer.headers["allow"].split(", "))
