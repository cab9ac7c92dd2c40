"""Tests that restart PostgreSQL many times while files are sent and verified.

No process may end by itself, and no file may be lost.
"""

import asyncio
import functools
import json
import os
import secrets
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from service import database
from service.embedded import Postgres, start_postgres
from service.settings import DatabaseSettings, DatabaseUrl, Secret
from tests.e2e.commands import stop
from tests.e2e.jobs import digest, put
from tests.e2e.leaks import keep_secret
from tests.e2e.sites import Site, open_site
from tests.support.servers import reserved_port
from tests.support.trust import TRUSTED
from tests.support.waiting import until

pytestmark = pytest.mark.anyio

RESTARTS = 20
SENDERS = 4
WAIT_SECONDS = 60
RETRY_SECONDS = 0.05
SHORT_LEASE = {"ASSAY_LEASE": "2s"}


class RestartedDatabase:
    """A separate PostgreSQL that keeps its URL when it is restarted."""

    def __init__(self, folder: Path, port: int, stack: ExitStack) -> None:
        self.folder = folder
        self.port = port
        self.stack = stack
        self.running: Postgres
        self.start()

    def start(self) -> None:
        self.running = self.stack.enter_context(
            start_postgres(self.folder, port=self.port, fsync=False)
        )
        assert self.running.port == self.port

    def restart(self, *, kill: bool) -> None:
        """Stop it by its fast shutdown or by SIGKILL, and start it again."""
        if kill:
            self.running.process.kill()
        self.stack.close()
        self.start()


@pytest.fixture
def restarted(folder: Path) -> Iterator[RestartedDatabase]:
    with reserved_port() as port, ExitStack() as stack:
        restarted = RestartedDatabase(folder / f"restarted-{port}", port, stack)
        asyncio.run(
            database.migrate(
                DatabaseSettings(database_url=DatabaseUrl(Secret(restarted.running.url)))
            )
        )
        yield restarted


@contextmanager
def started_site(
    folder: Path, log: Path, database_url: str
) -> Iterator[tuple[Site, list[subprocess.Popen[str]]]]:
    """Run an API with a worker, and two separate workers."""
    with open_site("embedded", folder, log, database_url=database_url) as site:
        site.environ.update(SHORT_LEASE)
        yield site, [site.start_api(with_worker=True), site.start_worker(), site.start_worker()]


async def retry(client: httpx.AsyncClient, method: str, path: str, **about: Any) -> Any:
    """Repeat the request while it gets 503, and return the JSON of the response."""
    async with asyncio.timeout(WAIT_SECONDS):
        while (  # noqa: ASYNC110  # no event here reports that the database is available again
            answer := await client.request(method, path, **about)
        ).status_code == 503:
            await asyncio.sleep(RETRY_SECONDS)
    assert answer.is_success, answer.text
    return answer.json()


async def send_file(client: httpx.AsyncClient) -> tuple[str, bytes]:
    """Declare, send and complete a file, and return its id and its bytes."""
    body = os.urandom(10_000)
    about = {"filename": "a.bin", "size": len(body), "content_type": "text/plain"}
    declared = await retry(
        client, "POST", "/files", json=about, headers={"Idempotency-Key": secrets.token_hex(8)}
    )
    assert (await put(declared, body)).status == 200
    await retry(client, "POST", f"/files/{declared['file']['id']}/complete")
    return declared["file"]["id"], body


@pytest.mark.slow
async def test_processes_and_files_survive_restarts_of_the_database(
    restarted: RestartedDatabase, folder: Path, tmp_path: Path
) -> None:
    log = tmp_path / "processes.log"
    with started_site(folder, log, restarted.running.url) as (site, processes):
        key = (await asyncio.to_thread(site.run, "keys", "create", "--owner", "ada")).stdout.strip()
        keep_secret([key])
        sent: dict[str, bytes] = {}
        over = asyncio.Event()

        async def keep_sending(client: httpx.AsyncClient) -> None:
            while not over.is_set():
                sent.update([await send_file(client)])

        async def has_more(than: int) -> bool:
            """Return whether as many more files were sent as there are senders."""
            return len(sent) > than + SENDERS

        async with httpx.AsyncClient(
            base_url=site.url,
            headers={"Authorization": f"Bearer {key}"},
            timeout=WAIT_SECONDS,
            verify=TRUSTED,
        ) as client:
            async with asyncio.TaskGroup() as senders:
                for _ in range(SENDERS):
                    senders.create_task(keep_sending(client))
                for number in range(RESTARTS):
                    await until(functools.partial(has_more, len(sent)), seconds=WAIT_SECONDS)
                    await asyncio.to_thread(restarted.restart, kill=bool(number % 2))
                over.set()
            files = await asyncio.gather(
                *(
                    retry(client, "GET", f"/files/{name}/metadata", params={"wait": 50})
                    for name in sent
                )
            )
        assert {file["id"]: file.get("hash") for file in files} == {
            name: digest(body) for name, body in sent.items()
        }
        assert {file["state"] for file in files} == {"ready"}
        assert [process.poll() for process in processes] == [None] * len(processes), (
            log.read_text()[-2000:]
        )
        assert [await asyncio.to_thread(stop, process) for process in processes] == [0] * len(
            processes
        )
    lines = log.read_text().splitlines()
    assert [line for line in lines if not is_json(line)] == []


def is_json(line: str) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except ValueError:
        return False
