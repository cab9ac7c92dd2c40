"""Refusals of parameters and headers say what would be right."""

import httpx
import pytest

from tests.e2e.test_bad_input import check_named

pytestmark = pytest.mark.anyio


async def test_an_unknown_state_is_answered_with_the_known_ones(client: httpx.AsyncClient) -> None:
    check_named(await client.get("/files?state=unknown"), 400, "state", "verifying")


async def test_an_unknown_parameter_is_answered_with_the_known_ones(client: httpx.AsyncClient) -> None:
    check_named(await client.get("/files?nope=1"), 400, "nope", "leave it out")


async def test_a_malformed_idempotency_key_is_answered_in_words(client: httpx.AsyncClient) -> None:
    answer = await client.post("/files", json={"filename": "a", "size": 1}, headers={"Idempotency-Key": "a b"})
    check_named(answer, 400, "Idempotency-Key", "1 to 255")
