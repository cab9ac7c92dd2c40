"""The production processes apart from each other: one API, two workers, set up by ASSAY_* alone; and how each of them ends."""

import asyncio
import hashlib
import os
import secrets
import signal
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from uuid import UUID

import asyncpg
import httpx
import pytest

from service.embedded import Webhook
from tests.e2e.commands import run, started, stop
from tests.servers import free_port, start_test_store, store_kinds, wait_until

pytestmark = [pytest.mark.anyio, pytest.mark.xdist_group("processes")]
KIND = next(kind for kind in ("minio", "docker", "embedded") if kind in store_kinds())
LARGE = 256 * 1024**2


@dataclass(frozen=True)
class Site:
    """A store of its own, bootstrapped, and the environment that every process gets."""

    environ: dict[str, str] = field(repr=False)
    url: str
    log: Path
    stack: ExitStack = field(repr=False)

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        return self.stack.enter_context(started(arguments, self.log, environ=self.environ))

    def start_api(self) -> subprocess.Popen[str]:
        port = self.url.rpartition(":")[2]
        api = self.start("serve", "--host", "127.0.0.1", "--port", port, "--no-worker")
        wait_until(lambda: api.poll() is not None or is_ready(self.url))
        return api

    def start_worker(self) -> subprocess.Popen[str]:
        begun = self.log.read_text().count("worker started")
        worker = self.start("worker")
        wait_until(lambda: worker.poll() is not None or self.log.read_text().count("worker started") > begun)
        return worker

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return run(arguments, environ=self.environ)


def is_ready(url: str) -> bool:
    try:
        return httpx.get(f"{url}/health/ready").status_code == 200
    except httpx.TransportError:
        return False


@pytest.fixture
def site(folder: Path, tmp_path: Path, database_url: str) -> Iterator[Site]:
    port, token = free_port(), secrets.token_urlsafe(16)
    webhook = Webhook(f"http://127.0.0.1:{port}/webhooks/minio", token)
    with ExitStack() as stack:
        store = stack.enter_context(start_test_store(KIND, folder / f"site-{port}", {"ASSAY": webhook}))
        name = secrets.token_hex(4)
        settings = {
            "DATABASE_URL": database_url,
            "S3_ENDPOINT": store.endpoint,
            "S3_ACCESS_KEY": secrets.token_hex(10),
            "S3_SECRET_KEY": secrets.token_hex(20),
            "S3_SIGNER_ACCESS_KEY": secrets.token_hex(10),
            "S3_SIGNER_SECRET_KEY": secrets.token_hex(20),
            "WEBHOOK_TOKEN": token,
            "INCOMING_BUCKET": f"incoming-{name}",
            "VAULT_BUCKET": f"vault-{name}",
        }
        environ = {f"ASSAY_{key}": value for key, value in settings.items()}
        root = {"ASSAY_S3_ROOT_ACCESS_KEY": store.root_access_key, "ASSAY_S3_ROOT_SECRET_KEY": store.root_secret_key}
        made = run(["bootstrap"], environ=environ | root)
        assert made.returncode == 0, made.stderr
        log = tmp_path / "processes.log"
        log.touch()
        yield Site(environ, f"http://127.0.0.1:{port}", log, stack)
    text = log.read_text()
    assert not [name for name, value in settings.items() if "KEY" in name and value in text]


@pytest.fixture
def key(site: Site) -> str:
    return site.run("keys", "create", "--owner", "ada").stdout.strip()


@pytest.fixture
async def client(site: Site, key: str) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=site.url, headers={"Authorization": f"Bearer {key}"}, timeout=60) as client:
        yield client


async def upload(client: httpx.AsyncClient, body: bytes) -> UUID:
    declared = (await client.post("/files", json={"filename": "a.bin", "size": len(body)})).raise_for_status().json()
    target = declared["upload"]
    async with httpx.AsyncClient(timeout=60) as anybody:
        (await anybody.put(target["url"], headers=target["headers"], content=body)).raise_for_status()
    return UUID(declared["file"]["id"])


async def test_an_api_and_two_workers_share_the_work_and_end_in_good_order(site: Site, client: httpx.AsyncClient) -> None:
    api, *workers = site.start_api(), site.start_worker(), site.start_worker()
    bodies = [os.urandom(100_000) for _ in range(8)]
    ids = await asyncio.gather(*(upload(client, body) for body in bodies))
    proved = [(await client.get(f"/files/{file_id}/metadata", params={"wait": 50})).json() for file_id in ids]
    assert [file["state"] for file in proved] == ["ready"] * 8
    assert [file["hash"] for file in proved] == [hashlib.sha256(body).hexdigest() for body in bodies]

    examined = await asyncio.to_thread(site.run, "doctor")
    assert examined.returncode == 0, examined.stdout + examined.stderr
    assert "ok       event: arrived" in examined.stdout
    assert "ok       worker:" in examined.stdout
    inspected = await asyncio.to_thread(site.run, "inspect", str(ids[0]))
    assert "proved object" in inspected.stdout, inspected.stderr

    assert [stop(process) for process in (*workers, api)] == [0, 0, 0]


async def test_a_download_under_way_ends_before_the_api_does(site: Site, client: httpx.AsyncClient) -> None:
    api, worker = site.start_api(), site.start_worker()
    body = os.urandom(64 * 1024**2)
    file_id = await upload(client, body)
    assert (await client.get(f"/files/{file_id}/metadata", params={"wait": 50})).json()["state"] == "ready"
    digest = hashlib.sha256()
    async with client.stream("GET", f"/files/{file_id}") as answer:
        chunks = answer.aiter_raw()
        digest.update(await anext(chunks))
        api.send_signal(signal.SIGTERM)
        await asyncio.to_thread(wait_until, lambda: not accepts(site.url))
        async for chunk in chunks:
            digest.update(chunk)
    assert digest.digest() == hashlib.sha256(body).digest()
    assert await asyncio.to_thread(api.wait, 60) == 0
    assert stop(worker) == 0


def accepts(url: str) -> bool:
    try:
        httpx.get(f"{url}/health/live")
    except httpx.ConnectError:
        return False
    return True


async def test_a_worker_that_is_told_to_stop_holds_no_lease_afterwards(site: Site, client: httpx.AsyncClient, pool: asyncpg.Pool) -> None:
    api, worker = site.start_api(), site.start_worker()
    file_id = await upload(client, os.urandom(LARGE))
    await client.post(f"/files/{file_id}/complete")
    unclaimed = "SELECT lease IS NULL AND state = 'verifying' FROM files WHERE id = $1"
    while await pool.fetchval(unclaimed, file_id):  # noqa: ASYNC110  # another process claims it
        await asyncio.sleep(0.01)
    assert await asyncio.to_thread(stop, worker) == 0
    left = await pool.fetchrow("SELECT state, lease FROM files WHERE id = $1", file_id)
    assert left["lease"] is None
    assert left["state"] in ("ready", "verifying")
    second = site.start_worker()
    assert (await client.get(f"/files/{file_id}/metadata", params={"wait": 50})).json()["state"] == "ready"
    assert [stop(second), stop(api)] == [0, 0]


async def test_nothing_starts_over_another_schema(site: Site, pool: asyncpg.Pool) -> None:
    await pool.execute("UPDATE alembic_version SET version_num = '0000'")
    for command in (["serve", "--port", str(free_port())], ["worker"], ["sweep"]):
        refused = await asyncio.to_thread(site.run, *command)
        assert refused.returncode == 3, refused.stderr
        assert "assay migrate" in refused.stderr


async def test_a_port_that_is_taken_is_said(site: Site) -> None:
    api = site.start_api()
    refused = await asyncio.to_thread(site.run, "serve", "--host", "127.0.0.1", "--port", site.url.rpartition(":")[2])
    assert refused.returncode == 1
    assert "--port" in refused.stderr
    assert stop(api) == 0
