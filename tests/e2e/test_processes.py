"""Tests of separate production processes, an API and two workers, and of how each of them ends.

Only the environment variables ASSAY_* configure them.
"""

import asyncio
import hashlib
import os
import signal
import socket
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import asyncpg
import httpx
import pytest

from service.cli.api import STOP_SECONDS
from tests.e2e.commands import stop
from tests.e2e.jobs import VAULT_WRITE, digest, prove, read_metadata, stream, upload
from tests.e2e.leaks import keep_secret
from tests.e2e.sites import Site, open_site
from tests.support.proxies import faulty_way
from tests.support.servers import free_port, store_kinds, wait_until
from tests.support.trust import TRUSTED
from tests.support.waiting import until

pytestmark = pytest.mark.anyio
KIND = next(kind for kind in ("minio", "docker", "embedded") if kind in store_kinds())
MIB = 1024**2


@pytest.fixture
def site(folder: Path, tmp_path: Path, database_url: str) -> Iterator[Site]:
    with open_site(KIND, folder, tmp_path / "processes.log", database_url=database_url) as opened:
        yield opened


@pytest.fixture
def key(site: Site) -> str:
    made = site.run("keys", "create", "--owner", "ada").stdout.strip()
    keep_secret([made])
    return made


@pytest.fixture
async def client(site: Site, key: str) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(
        base_url=site.url, headers={"Authorization": f"Bearer {key}"}, timeout=60, verify=TRUSTED
    ) as client:
        yield client


async def test_an_api_and_two_workers_prove_files_and_end_with_status_0(
    site: Site, client: httpx.AsyncClient
) -> None:
    api, *workers = site.start_api(), site.start_worker(), site.start_worker()
    bodies = [os.urandom(100_000) for _ in range(8)]
    declared = await asyncio.gather(*(upload(client, body) for body in bodies))
    proved = [await read_metadata(client, one, wait=50) for one in declared]
    assert [file["state"] for file in proved] == ["ready"] * 8
    assert [file["hash"] for file in proved] == [digest(body) for body in bodies]

    examined = await asyncio.to_thread(site.run, "doctor")
    assert examined.returncode == 0, examined.stdout + examined.stderr
    assert "ok       event: arrived" in examined.stdout
    assert "ok       worker:" in examined.stdout
    inspected = await asyncio.to_thread(site.run, "inspect", proved[0]["id"])
    assert "proved object" in inspected.stdout, inspected.stderr

    assert [stop(process) for process in (*workers, api)] == [0, 0, 0]


async def test_a_running_download_is_completed_before_the_api_ends(
    site: Site, client: httpx.AsyncClient
) -> None:
    api, worker = site.start_api(), site.start_worker()
    body = os.urandom(64 * MIB)
    proved = await prove(client, body)
    received = hashlib.sha256()
    async with client.stream("GET", f"/files/{proved['id']}") as answer:
        chunks = answer.aiter_raw()
        received.update(await anext(chunks))
        api.send_signal(signal.SIGTERM)
        await asyncio.to_thread(wait_until, lambda: not accepts(site.url))
        async for chunk in chunks:
            received.update(chunk)
    assert received.hexdigest() == digest(body)
    assert await asyncio.to_thread(api.wait, 60) == 0
    assert stop(worker) == 0


def accepts(url: str) -> bool:
    try:
        httpx.get(f"{url}/health/live")
    except httpx.ConnectError:
        return False
    return True


@pytest.mark.slow
async def test_a_client_that_has_stopped_reading_does_not_delay_the_end(
    site: Site, client: httpx.AsyncClient, key: str
) -> None:
    api = site.start_api()
    file = await stream(client, bytes(24 * MIB))
    address = urlsplit(site.url)
    with socket.create_connection((address.hostname, address.port), timeout=30) as reader:
        reader.sendall(
            f"GET /files/{file['id']} HTTP/1.1\r\nHost: test\r\n"
            f"Authorization: Bearer {key}\r\n\r\n".encode()
        )
        assert reader.recv(12) == b"HTTP/1.1 200"
        api.send_signal(signal.SIGTERM)
        assert await asyncio.to_thread(api.wait, STOP_SECONDS + 15) == 0


async def is_given_back(pool: asyncpg.Pool) -> bool:
    return bool(await pool.fetchval("SELECT lease IS NULL FROM files"))


@pytest.mark.slow
@pytest.mark.parametrize("in_time", [True, False], ids=["finished", "released"])
async def test_a_worker_that_is_stopped_holds_no_lease_afterwards(
    site: Site, client: httpx.AsyncClient, pool: asyncpg.Pool, *, in_time: bool
) -> None:
    """Stop the worker while it waits for the store's response to a write.

    The worker must end in time even if the store never answers.
    """
    api = site.start_api()
    with faulty_way(site.environ["ASSAY_S3_ENDPOINT"]) as (way, endpoint):
        worker = site.start_worker(ASSAY_S3_ENDPOINT=endpoint)
        way.silence_after(VAULT_WRITE)
        declared = await upload(client, os.urandom(100_000))  # the store's event announces it
        assert await asyncio.to_thread(way.silenced.wait, 60)
        assert not await is_given_back(pool)
        worker.send_signal(signal.SIGTERM)
        if in_time:
            way.restore()
        else:
            await until(lambda: is_given_back(pool), seconds=STOP_SECONDS + 5)
        assert await asyncio.to_thread(worker.wait, STOP_SECONDS + 5) == 0
    left = await pool.fetchrow("SELECT state, lease FROM files")
    assert (left["state"], left["lease"]) == ("ready" if in_time else "verifying", None)
    second = site.start_worker()
    assert (await read_metadata(client, declared, wait=50))["state"] == "ready"
    assert [stop(second), stop(api)] == [0, 0]


async def test_no_process_starts_with_another_schema(site: Site, pool: asyncpg.Pool) -> None:
    await pool.execute("UPDATE alembic_version SET version_num = '0000'")
    for command in (["serve", "--port", str(free_port())], ["worker"], ["sweep"]):
        refused = await asyncio.to_thread(site.run, *command)
        assert refused.returncode == 3, refused.stderr
        assert "assay migrate" in refused.stderr


async def test_a_port_in_use_is_reported(site: Site) -> None:
    api = site.start_api()
    refused = await asyncio.to_thread(
        site.run, "serve", "--host", "127.0.0.1", "--port", site.url.rpartition(":")[2]
    )
    assert refused.returncode == 1
    assert "--port" in refused.stderr
    assert stop(api) == 0
