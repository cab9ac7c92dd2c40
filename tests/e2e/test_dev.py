"""Tests of `assay dev` as a separate process, and of the README's promises about it."""

import asyncio
import os
import pwd
import secrets
import shutil
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import asyncpg
import httpx
import pytest

from tests.e2e.attacks import pack
from tests.e2e.commands import processes_in, read_announcement, run, started, stop, wait_until_gone
from tests.e2e.dev import Dev
from tests.e2e.jobs import declare, digest, read_metadata, upload
from tests.support.servers import (
    free_port,
    genuine_minio,
    reachable_folder,
    reserved_port,
    store_kinds,
)
from tests.support.trust import TRUSTED

pytestmark = [pytest.mark.anyio, pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")]
BODY = b"a photo of what was there" * 1000


@contextmanager
def running_dev(
    data: Path, *more: str, prefix: tuple[str, ...] = (), environ: dict[str, str] | None = None
) -> Iterator[Dev]:
    log = data.with_name(f"{data.name}.log")
    with reserved_port() as port:
        arguments = ["dev", "--data", str(data), "--port", str(port), "--json", *more]
        with started(arguments, log, prefix=prefix, environ=environ) as process:
            yield Dev(process, read_announcement(process, log), data)
    wait_until_gone(data)


@pytest.fixture
def data() -> Iterator[Path]:
    with reachable_folder() as folder:
        yield folder / "data"


@pytest.fixture(
    scope="module", params=[kind for kind in store_kinds() if kind in {"embedded", "minio"}]
)
def dev(request: pytest.FixtureRequest) -> Iterator[Dev]:
    binary = genuine_minio() if request.param == "minio" else None
    with (
        reachable_folder() as folder,
        running_dev(folder / "data", *(["--minio", str(binary)] if binary else [])) as running,
    ):
        yield running


async def prove_by_event(client: httpx.AsyncClient) -> dict[str, Any]:
    """Upload a file without `complete`, and return its metadata when it is final."""
    return await read_metadata(client, await upload(client, BODY), wait=50)


async def test_one_line_names_all_servers(dev: Dev) -> None:
    assert set(dev.line) == {"api", "key", "database", "s3", "incoming", "vault", "pids"}
    assert set(dev.line["s3"]) == {"endpoint", "access_key", "secret_key"}
    assert dev.line["pids"]["assay"] == dev.process.pid
    connection = await asyncpg.connect(dev.line["database"])
    assert await connection.fetchval("SELECT count(*) FROM api_keys") == 1
    await connection.close()


def test_all_servers_are_ready_when_the_line_is_printed(dev: Dev) -> None:
    assert (
        httpx.get(f"{dev.line['api']}/health/ready", params={"full": 1}, verify=TRUSTED).json()[
            "status"
        ]
        == "ready"
    )


async def test_the_event_alone_makes_an_upload_ready(dev: Dev) -> None:
    async with dev.client as client:
        proved = await prove_by_event(client)
        assert (proved["state"], proved["hash"]) == ("ready", digest(BODY))
        assert (await client.get(f"/files/{proved['id']}")).content == BODY


async def test_stock_curl_uploads_in_one_command(dev: Dev, tmp_path: Path) -> None:
    curl = shutil.which("curl")
    if curl is None:
        pytest.skip("no curl here")
    photo = tmp_path / "photo.jpg"
    photo.write_bytes(BODY)
    command = [
        curl,
        "-sSfLT",
        str(photo),
        "-H",
        f"Authorization: Bearer {dev.line['key']}",
        f"{dev.line['api']}/upload/",
    ]
    sent = await asyncio.to_thread(
        subprocess.run, command, capture_output=True, timeout=60, check=False
    )
    assert sent.returncode == 0
    async with dev.client as client:
        (file,) = (await client.get("/files", params={"limit": 1})).json()["files"]
        proved = await read_metadata(client, {"file": file}, wait=50)
    assert (proved["filename"], proved["state"], proved["hash"]) == (
        "photo.jpg",
        "ready",
        digest(BODY),
    )


def test_other_users_cannot_read_the_data_folder(dev: Dev) -> None:
    assert stat.S_IMODE(dev.data.stat().st_mode) == (0o711 if os.geteuid() == 0 else 0o700)
    for path in dev.data.iterdir():
        assert not stat.S_IMODE(path.stat().st_mode) & 0o077, path


async def test_a_second_start_on_the_same_folder_is_refused(dev: Dev) -> None:
    refused = await asyncio.to_thread(
        run, ["dev", "--data", str(dev.data), "--port", str(free_port())]
    )
    assert refused.returncode == 1
    assert "in use" in refused.stderr
    assert refused.stderr.count("\n") == 1
    async with dev.client as client:
        assert (await client.get("/files")).status_code == 200


def test_a_port_in_use_is_reported_and_no_server_is_started(data: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        refused = run(["dev", "--data", str(data), "--port", str(port)])
    assert refused.returncode == 1
    assert str(port) in refused.stderr
    assert "--port" in refused.stderr
    assert not processes_in(data)


async def test_a_kill_ends_all_servers_and_the_next_start_keeps_data_and_key(data: Path) -> None:
    with running_dev(data) as first:
        async with first.client as client:
            proved = await prove_by_event(client)
            assert proved["state"] == "ready"
            sent = await upload(client, BODY)
        stop(first.process, signal.SIGKILL)
        wait_until_gone(data)
    with running_dev(data) as second:
        assert second.line["key"] == first.line["key"]
        async with second.client as client:
            assert (await client.get(f"/files/{proved['id']}")).content == BODY
            assert (await read_metadata(client, sent, wait=50))["state"] == "ready"
        pids = second.line["pids"]
        assert stop(second.process) == 0
        assert not [pid for pid in pids.values() if is_running(pid)]


def is_running(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()


async def test_two_commands_that_start_at_once_use_separate_servers() -> None:
    with reachable_folder() as folder, ThreadPoolExecutor() as starting, ExitStack() as stack:
        both = list(
            starting.map(
                lambda name: stack.enter_context(running_dev(folder / name)), ("one", "two")
            )
        )
        for dev in both:
            async with dev.client as client:
                assert (await prove_by_event(client))["state"] == "ready"
        assert len({dev.line["s3"]["endpoint"] for dev in both}) == 2


def test_a_server_that_dies_ends_the_command_and_all_servers(data: Path) -> None:
    with running_dev(data) as dev:
        os.kill(dev.line["pids"]["store"], signal.SIGKILL)
        assert dev.process.wait(60) == 1
    assert "the store has exited" in data.with_name("data.log").read_text()


@pytest.mark.skipif(os.geteuid() != 0, reason="this is a normal user already")
async def test_a_user_other_than_root_can_start_it_in_their_own_folder(data: Path) -> None:
    """Run as the user `daemon`, because PostgreSQL requires a user with a name.

    The process may read all folders, because Python may be installed in a folder of root.
    """
    setpriv = shutil.which("setpriv")
    if setpriv is None:
        pytest.skip("no setpriv here")
    home = data.parent / "home"
    home.mkdir()
    user = pwd.getpwnam("daemon")
    os.chown(home, user.pw_uid, user.pw_gid)
    ids = (f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups")
    become = (setpriv, *ids, "--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search")
    with running_dev(home / "assay", prefix=become, environ={"HOME": str(home)}) as dev:
        async with dev.client as client:
            assert (await prove_by_event(client))["state"] == "ready"
        assert dev.data.stat().st_uid == user.pw_uid
        assert stat.S_IMODE(dev.data.stat().st_mode) == 0o700


def test_a_public_host_without_a_public_endpoint_is_refused(data: Path) -> None:
    refused = run(["dev", "--data", str(data), "--host", "0.0.0.0"])  # noqa: S104  # refused
    assert refused.returncode == 1
    assert "ASSAY_S3_PUBLIC_ENDPOINT" in refused.stderr
    assert not data.exists()


@pytest.mark.parametrize("values", [["true"], ["", "true"]])
async def test_clients_may_upload_to_the_embedded_store_but_not_unpack_tars(
    data: Path, values: list[str]
) -> None:
    """Use a random loopback address, because another `assay dev` may use the default port."""
    host = f"127.0.{secrets.randbelow(256)}.{2 + secrets.randbelow(250)}"
    environ = {"ASSAY_S3_PUBLIC_ENDPOINT": f"http://{host}:9000"}
    with running_dev(data, "--host", host, environ=environ) as dev:
        async with dev.client as client, httpx.AsyncClient(timeout=60, verify=TRUSTED) as anonymous:
            victim, declared = (
                await declare(client, BODY),
                await declare(client, archive := pack("a" * 32, BODY)),
            )
            url = httpx.URL(declared["upload"]["url"])
            assert (url.host, url.port) == (host, 9000)
            port = httpx.URL(dev.line["s3"]["endpoint"]).port
            sent = [*declared["upload"]["headers"].items(), ("Host", f"{host}:9000")]
            refused = await anonymous.put(
                url.copy_with(port=port),
                content=archive,
                headers=[*sent, *[("x-amz-meta-snowball-auto-extract", value) for value in values]],
            )
            honest = httpx.URL(victim["upload"]["url"]).copy_with(port=port)
            answer = await anonymous.put(
                honest,
                content=BODY,
                headers={**victim["upload"]["headers"], "Host": f"{host}:9000"},
            )
    assert (refused.status_code, answer.status_code) == (403, 200)
    said = data.with_name("data.log").read_text()
    assert "trusted network" in said


def test_nothing_is_printed_after_the_line(data: Path) -> None:
    with running_dev(data) as dev:
        assert stop(dev.process, signal.SIGINT) == 0
        assert dev.process.stdout is not None
        assert dev.process.stdout.read() == ""
