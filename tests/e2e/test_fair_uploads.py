"""The memory of streamed uploads is shared fairly between a greedy and a modest owner."""

import asyncio
import contextlib
import hashlib
import os
from collections.abc import Iterator

import httpx
import pytest

from service.http import request_bodies
from service.resources import Resources
from service.uploads import buffers as memory
from tests.e2e.conftest import Api, Owner, serving
from tests.support.invariants import check_uploads_aborted
from tests.support.trust import TRUSTED
from tests.support.waiting import until
from tests.support.wire import Wire, connected

pytestmark = [pytest.mark.anyio, pytest.mark.one_store]

MIB = 1024**2
HELD = memory.UNCOUNTED_BYTES + 1024  # one step is borrowed


@contextlib.contextmanager
def holding_memory(url: str, owner: Owner, count: int) -> Iterator[list[Wire]]:
    """Begin uploads of 16 MiB that send HELD bytes and then nothing."""
    head = (
        "POST /files/upload?filename=a HTTP/1.1\r\nHost: test\r\n"
        f"Authorization: Bearer {owner.key}\r\nContent-Length: {16 * MIB}\r\n\r\n"
    ).encode()
    with connected(url, count) as wires:
        for wire in wires:
            assert wire.send(head + bytes(HELD))
        yield wires


async def upload(url: str, owner: Owner, content: bytes) -> httpx.Response:
    async with httpx.AsyncClient(
        base_url=url, headers=owner.headers, timeout=120, verify=TRUSTED
    ) as client:
        return await client.post("/files/upload", params={"filename": "b"}, content=content)


async def check_stored(response: httpx.Response, content: bytes) -> None:
    assert response.status_code == 201, response.text
    assert response.json()["hash"] == hashlib.sha256(content).hexdigest()


async def test_slow_uploads_of_one_owner_do_not_refuse_anothers_upload(
    api: Api, owner: Owner
) -> None:
    content = os.urandom(2 * memory.PART_BYTES)
    with holding_memory(api.url, owner, 16):
        answer = await upload(api.url, api.new_owner(), content)
    await check_stored(answer, content)


async def test_slow_uploads_give_way_while_others_wait_for_memory(
    api: Api, owner: Owner, resources: Resources, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Let eight slow uploads of one owner, whose share is four steps, meet a fast one."""
    monkeypatch.setattr(memory, "SHARED_BYTES", 8 * memory.STEP_BYTES)
    monkeypatch.setattr(request_bodies, "WINDOW_SECONDS", 10.0)
    content = os.urandom(4 * MIB)
    with serving(api.settings, with_worker=False) as url, holding_memory(url, owner, 8) as wires:
        await check_stored(await upload(url, owner, content), content)
        first = await asyncio.to_thread(wires[0].read_answer, "POST")
        assert first.status == 408
    await until(lambda: leaves_nothing(resources, owner))
    await check_uploads_aborted(resources)


async def leaves_nothing(resources: Resources, owner: Owner) -> bool:
    count: int = await resources.pool.fetchval(
        "SELECT count(*) FROM reservations WHERE owner = $1 AND doomed_at IS NULL", owner.name
    )
    return count == 0
