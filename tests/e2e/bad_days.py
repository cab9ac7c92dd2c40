"""What the tests of bad days share: a deployment over genuine MinIO, its files, and its checks.

The deployment deletes as soon as it may: its sweeper runs all the time and without a delay.
"""

import asyncio
import contextlib
import os
import subprocess
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import asyncpg
import httpx

from service import database
from service.resources import Resources, open_resources
from service.settings import DatabaseSettings, DatabaseUrl, Secret, Settings, read_settings
from service.worker.sweeper import sweep
from tests.e2e.commands import stop
from tests.e2e.jobs import digest, prove, read_metric, stream
from tests.e2e.leaks import keep_secret
from tests.e2e.sites import Site, open_site
from tests.support.clock import DAY, pass_time
from tests.support.invariants import check_invariants, check_nothing_left, list_bucket
from tests.support.trust import TRUSTED

EAGER = {
    "ASSAY_SWEEP_DELAY": "0s",
    "ASSAY_SWEEP_EVERY": "0.2s",
    "ASSAY_LEASE": "2s",
    "ASSAY_SCRUB_RATE": "1GiB",
}
END_LEASES = "UPDATE reservations SET lease_until = now() - interval '1 day'"
SMALL, MEDIUM = 5_000, 300_000
"""Sizes of files: MinIO keeps the first inside of `xl.meta`, and the second in a file of parts."""


class Place:
    """A deployment, and a client of its API."""

    def __init__(self, site: Site, client: httpx.AsyncClient, folder: Path) -> None:
        self.site = site
        self.client = client
        self.folder = folder
        self.bodies: dict[str, bytes] = {}
        self.processes: list[subprocess.Popen[str]] = []

    @property
    def log(self) -> str:
        return self.site.log.read_text()

    async def start(self, *, worker: bool = True) -> None:
        """Start an API without a worker, and a worker."""
        self.processes.append(await asyncio.to_thread(self.site.start_api))
        if worker:
            self.processes.append(await asyncio.to_thread(self.site.start_worker))

    async def stop(self) -> None:
        """Stop the API and the worker."""
        while self.processes:
            assert await asyncio.to_thread(stop, self.processes.pop()) == 0, self.log[-2000:]

    @property
    def vault_folder(self) -> Path:
        """Return the folder in which MinIO keeps the vault."""
        home = self.folder / f"site-{self.site.url.rpartition(':')[2]}"
        return home / "minio" / "data" / self.site.environ["ASSAY_VAULT_BUCKET"]

    async def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return await asyncio.to_thread(self.site.run, *arguments)

    async def run_well(self, *arguments: str) -> str:
        """Run the command, which must succeed, and return its output."""
        ended = await self.run(*arguments)
        assert ended.returncode == 0, ended.stdout + ended.stderr
        return ended.stdout

    @contextlib.asynccontextmanager
    async def look(self) -> AsyncIterator[Resources]:
        """Open the database and both buckets for the test."""
        async with open_resources(read_settings(self.site.environ, Settings)) as resources:
            yield resources

    # Files

    async def send(self, size: int = SMALL) -> str:
        """Send a file by its URL, and return its id when it is `ready`."""
        body = os.urandom(size)
        file = await prove(self.client, body)
        return self.keep(file["id"], body, file["state"])

    async def send_streamed(self, size: int = SMALL) -> str:
        body = os.urandom(size)
        file = await stream(self.client, body)
        return self.keep(file["id"], body, file["state"])

    async def send_some(self) -> list[str]:
        """Send files of two sizes, by their URLs and through the API."""
        return [
            await send(size) for send in (self.send, self.send_streamed) for size in (SMALL, MEDIUM)
        ]

    def keep(self, file_id: str, body: bytes, state: str) -> str:
        assert state == "ready"
        self.bodies[file_id] = body
        return file_id

    async def check_files(self, *but: str) -> None:
        """Check that every file is `ready` and has its bytes, but for those."""
        for file_id, body in self.bodies.items():
            if file_id not in but:
                answer = await self.client.get(f"/files/{file_id}/metadata")
                assert answer.status_code == 200, answer.text
                found = answer.json()
                assert (found["state"], found["hash"]) == ("ready", digest(body)), found
                assert (await self.client.get(f"/files/{file_id}")).content == body

    async def check_damaged(self, *file_ids: str) -> None:
        """Check that readers of these files get an error, and no byte."""
        for file_id in file_ids:
            answer = await self.client.get(f"/files/{file_id}")
            assert answer.status_code in (409, 502), answer.text
            assert answer.json()["type"] == "urn:assay:problem:file-damaged"
            assert self.bodies[file_id][:100] not in answer.content

    async def check_stopped(self, reason: str) -> None:
        """Check that everything that would delete has stopped, and says why."""
        answer = await self.client.get("/health/ready?full=1")
        assert answer.status_code == 503, answer.text
        assert reason in answer.json()["stopped"]
        assert await read_metric(self.client, "assay_stopped") == 1
        examined = await self.run("doctor")
        assert examined.returncode == 1
        assert f"nothing is verified or deleted: {reason}" in " ".join(examined.stdout.split())
        said = [line for line in self.log.splitlines() if "nothing is verified or del" in line]
        assert any(reason in line for line in said), self.log[-2000:]

    async def check_nothing_is_deleted(self) -> None:
        """Let two days pass, sweep and scrub, and check that both buckets stay as they are."""
        async with self.look() as resources:
            before = await list_objects(resources)
            states = await list_states(resources.pool)
            await let_pass(resources.pool, DAY * 2)
            assert await self.run_well("sweep") == "0 leftovers removed\n"
            scrubbed = await self.run("scrub", "--all")
            assert scrubbed.returncode == 1
            assert "; stopped: " in scrubbed.stderr
            assert await list_objects(resources) == before
            assert await list_states(resources.pool) == states

    async def check_settled(self) -> None:
        """Check that the invariants hold, also after much time has passed and all is swept."""
        async with self.look() as resources:
            await check_invariants(resources)
            for _ in range(3):
                await let_pass(resources.pool, DAY * 8)
                await sweep(resources)
            await check_invariants(resources)
            await check_nothing_left(resources)


async def let_pass(pool: asyncpg.Pool, time: timedelta) -> None:
    await pass_time(pool, time)
    await end_leases(pool)


async def end_leases(pool: asyncpg.Pool) -> None:
    """Let the leases of all reservations end, also of those that were made in advance."""
    await pool.execute(END_LEASES)


async def list_objects(resources: Resources) -> tuple[set[str], set[str]]:
    """Return the keys in both buckets."""
    return await list_bucket(resources.incoming), await list_bucket(resources.vault)


async def list_states(pool: asyncpg.Pool) -> dict[str, str]:
    """Return the states of all files. A late event makes a `pending` file `verifying`."""
    rows = await pool.fetch("SELECT id, replace(state, 'pending', 'verifying') AS state FROM files")
    return {str(row["id"]): row["state"] for row in rows}


async def has_begun(resources: Resources) -> bool:
    """Return whether a scrub has read a file."""
    proved = "SELECT EXISTS (SELECT FROM files WHERE proved_at IS NOT NULL)"
    return bool(await resources.pool.fetchval(proved))


def read_complaint(log: str) -> str:
    """Return the only line that a command has printed beside the log's lines of JSON."""
    [line] = [line for line in log.splitlines() if not line.startswith("{")]
    return line


async def find_key(pool: asyncpg.Pool, file_id: str) -> str:
    """Return the key of the file's object in the vault."""
    return str(await pool.fetchval("SELECT minio_object_name FROM files WHERE id = $1", file_id))


async def raise_marker(place: Place) -> None:
    """Raise the marker, as a process does each minute."""
    async with place.look() as resources:
        before = await resources.pool.fetchval(
            "UPDATE vault_marker SET raised_at = now() - interval '1 day' RETURNING counter"
        )
        assert (await resources.guard.check()).counter == before + 1


@contextlib.asynccontextmanager
async def open_place(folder: Path, tmp_path: Path, database_url: str) -> AsyncIterator[Place]:
    """Run genuine MinIO, migrate the database, and yield a deployment with a client.

    No process of Assay runs yet. `database_url` may lead through a proxy.
    """
    url = DatabaseUrl(Secret(database_url))
    await database.migrate(DatabaseSettings(database_url=url))
    with open_site("minio", folder, tmp_path / "site.log", database_url=database_url) as site:
        site.environ.update(EAGER)
        key = (await asyncio.to_thread(site.run, "keys", "create", "--owner", "ada")).stdout.strip()
        keep_secret([key])
        headers = {"Authorization": f"Bearer {key}"}
        async with httpx.AsyncClient(
            base_url=site.url, headers=headers, timeout=60, verify=TRUSTED
        ) as client:
            yield Place(site, client, folder)
