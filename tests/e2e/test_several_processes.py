"""Tests of `assay serve --processes`: one port, several processes, and how each of them ends."""

import asyncio
import contextlib
import json
import os
import signal
import socket
import subprocess
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import asyncpg
import httpx
import pytest
from prometheus_client.mmap_dict import MmapedDict
from prometheus_client.parser import text_string_to_metric_families

from tests.e2e.commands import run, stop
from tests.e2e.jobs import digest, prove, read_metadata, upload
from tests.e2e.leaks import keep_secret
from tests.e2e.sites import Site, is_ready, open_site
from tests.support.processes import read_stat
from tests.support.servers import store_kinds, wait_until
from tests.support.trust import TRUSTED
from tests.support.waiting import until

pytestmark = pytest.mark.anyio
KIND = next(kind for kind in ("minio", "docker", "embedded") if kind in store_kinds())
COUNT = 3
LIST = '"route": "/files"'


@pytest.fixture
def metrics(tmp_path: Path) -> Path:
    folder = tmp_path / "metrics"
    folder.mkdir()
    return folder


@pytest.fixture
def site(folder: Path, tmp_path: Path, database_url: str) -> Iterator[Site]:
    with open_site(KIND, folder, tmp_path / "processes.log", database_url=database_url) as opened:
        yield opened


@pytest.fixture
def parent(site: Site, metrics: Path) -> Iterator[subprocess.Popen[str]]:
    address = urlsplit(site.url)
    process = site.start(
        *("serve", "--host", str(address.hostname), "--port", str(address.port)),
        *("--processes", str(COUNT)),
        PROMETHEUS_MULTIPROC_DIR=str(metrics),
    )
    wait_until(lambda: process.poll() is not None or is_ready(site.url))
    yield process
    if process.poll() is None:
        stop(process)


@pytest.fixture
async def client(site: Site) -> AsyncIterator[httpx.AsyncClient]:
    key = site.run("keys", "create", "--owner", "ada").stdout.strip()
    keep_secret([key])
    async with httpx.AsyncClient(
        base_url=site.url,
        headers={"Authorization": f"Bearer {key}"},
        limits=httpx.Limits(max_keepalive_connections=0),  # each request may reach another process
        timeout=60,
        verify=TRUSTED,
    ) as client:
        yield client


def list_started(site: Site) -> list[int]:
    """Return the ids of the processes that were started, the one with the worker first."""
    lines = [json.loads(line) for line in site.log.read_text().splitlines() if line[:1] == "{"]
    started = [line for line in lines if line["event"] == "process started"]
    return [line["process"] for line in sorted(started, key=lambda line: not line["worker"])]


def has_ended(pid: int) -> bool:
    """Return whether the process has ended, although its parent may not know yet."""
    return read_stat(pid)[0] in ("0", "Z")


def count_in(metrics: Path, pid: int) -> float:
    """Return the number of lists that one process has counted."""
    path = metrics / f"counter_{pid}.db"
    if not path.exists() or not path.stat().st_size:
        return 0  # the process has not written it yet
    read = MmapedDict.read_all_values_from_file
    found = read(str(path))  # type: ignore[no-untyped-call]  # not annotated
    counted = [value for key, value, *_ in found if '"assay_requests_total"' in key and LIST in key]
    return float(sum(counted))


async def list_from_all(client: httpx.AsyncClient, metrics: Path, pids: list[int]) -> int:
    """Read lists until each of the processes has sent one, and return how many were read."""
    sent = 0
    async with asyncio.timeout(120):
        while not all(count_in(metrics, pid) for pid in pids):
            answers = await asyncio.gather(*(client.get("/files") for _ in range(30)))
            assert {answer.status_code for answer in answers} == {200}
            sent += len(answers)
    return sent


async def count_lists(client: httpx.AsyncClient) -> float:
    """Return the number of lists that were sent, as any of the processes reports it."""
    text = (await client.get("/metrics")).text
    return sum(
        sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name == "assay_requests_total" and sample.labels["route"] == "/files"
    )


async def until_counted(client: httpx.AsyncClient, sent: int) -> None:
    """Wait until all requests are counted, which happens after they were answered."""

    async def is_counted() -> bool:
        return await count_lists(client) == sent

    await until(is_counted)


async def test_all_processes_serve_the_port_and_report_common_metrics(
    site: Site, parent: subprocess.Popen[str], client: httpx.AsyncClient, metrics: Path
) -> None:
    pids = list_started(site)
    assert len(pids) == COUNT
    (metrics / "counter_1.db").touch()  # a process that starts leaves its files empty for a moment
    sent = await list_from_all(client, metrics, pids)
    await until_counted(client, sent)
    assert [await count_lists(client) for _ in range(5)] == [sent] * 5
    assert stop(parent) == 0
    assert all(has_ended(pid) for pid in pids)


async def test_files_are_proved_whichever_process_hears_of_them(
    site: Site, parent: subprocess.Popen[str], client: httpx.AsyncClient
) -> None:
    bodies = [os.urandom(size) for size in (1, 70_000, 2_000_000) for _ in range(4)]
    declared = await asyncio.gather(*(upload(client, body) for body in bodies))
    proved = await asyncio.gather(*(read_metadata(client, one, wait=50) for one in declared))
    assert {file["state"] for file in proved} == {"ready"}
    assert [file["hash"] for file in proved] == [digest(body) for body in bodies]
    assert "ok       worker:" in (await asyncio.to_thread(site.run, "doctor")).stdout
    assert stop(parent) == 0


@pytest.mark.parametrize("killed", range(2), ids=["worker", "other"])
async def test_a_process_that_was_killed_is_started_again(
    site: Site,
    parent: subprocess.Popen[str],
    client: httpx.AsyncClient,
    metrics: Path,
    killed: int,
) -> None:
    pids = list_started(site)
    sent = await list_from_all(client, metrics, pids)
    await until_counted(client, sent)
    os.kill(pids[killed], signal.SIGKILL)
    await asyncio.to_thread(wait_until, lambda: len(list_started(site)) == COUNT + 1)
    (added,) = set(list_started(site)) - set(pids)
    assert (list_started(site).index(added) < 2) == (killed == 0), "it has the same part"
    sent += await list_from_all(client, metrics, [added])
    await until_counted(client, sent)  # what the killed process counted is kept
    body = os.urandom(2_000_000)  # too large for an inline proof
    file = await prove(client, body)
    assert (file["state"], file["hash"]) == ("ready", digest(body))
    assert stop(parent) == 0
    assert all(has_ended(pid) for pid in list_started(site))


async def test_no_process_outlives_a_killed_parent(
    site: Site, parent: subprocess.Popen[str], client: httpx.AsyncClient
) -> None:
    assert (await client.get("/files")).status_code == 200
    parent.kill()
    parent.wait()
    await asyncio.to_thread(
        wait_until, lambda: all(has_ended(pid) for pid in list_started(site)), seconds=60
    )
    with contextlib.closing(socket.socket()) as listener:
        address = urlsplit(site.url)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((address.hostname, address.port))


async def test_a_process_that_cannot_start_stops_no_other(
    site: Site,
    parent: subprocess.Popen[str],
    client: httpx.AsyncClient,
    metrics: Path,
    pool: asyncpg.Pool,
) -> None:
    """Kill a process while the schema is a newer one, and then the others."""
    first, *others = list_started(site)
    await list_from_all(client, metrics, [first, *others])  # all of them have started
    version = await pool.fetchval("SELECT version_num FROM alembic_version")
    await pool.execute("UPDATE alembic_version SET version_num = '0000'")
    os.kill(first, signal.SIGKILL)
    await asyncio.to_thread(wait_until, lambda: '"exit_status": 3' in site.log.read_text())
    assert (await client.get("/files")).status_code == 200
    for pid in others:
        os.kill(pid, signal.SIGKILL)
    assert await asyncio.to_thread(parent.wait, 90) == 3
    assert all(has_ended(pid) for pid in list_started(site))
    assert version in site.log.read_text()


async def test_sigint_after_sigterm_ends_all_although_a_client_does_not_read(
    site: Site, parent: subprocess.Popen[str], client: httpx.AsyncClient
) -> None:
    file = await prove(client, os.urandom(32 * 1024**2))
    async with client.stream("GET", f"/files/{file['id']}") as answer:
        assert answer.status_code == 200
        parent.send_signal(signal.SIGTERM)
        await until_refused(site.url)
        parent.send_signal(signal.SIGTERM)
        assert parent.poll() is None, "the download is in progress"
        parent.send_signal(signal.SIGINT)
        assert await asyncio.to_thread(parent.wait, 60) == 0
        with pytest.raises(httpx.TransportError):
            await answer.aread()
    assert all(has_ended(pid) for pid in list_started(site))


async def until_refused(url: str) -> None:
    async def is_refused() -> bool:
        async with httpx.AsyncClient(verify=TRUSTED) as prober:
            try:
                await prober.get(f"{url}/health/live", timeout=10)
            except httpx.ConnectError:
                return True
            except httpx.TransportError:  # a process closed the connection when it stopped
                return False
        return False

    await until(is_refused)


@pytest.mark.parametrize("count", ["0", "65", "-1"])
def test_an_impossible_number_of_processes_is_refused(count: str) -> None:
    ended = run(["serve", f"--processes={count}"])
    assert (ended.returncode, ended.stdout) == (1, "")
    assert ended.stderr == f"--processes {count}: it must be a number from 1 to 64\n"
