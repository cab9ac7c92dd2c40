"""`assay scrub` as a command, beside a running API: what readers and the operator see."""

import asyncio
import subprocess

import httpx
import pytest

from service import database
from service.queries import locks
from service.resources import Resources, open_resources
from service.settings import Settings
from tests.e2e.commands import run
from tests.e2e.conftest import api_apart
from tests.support.environments import make_environment
from tests.support.objects import put_object

pytestmark = pytest.mark.anyio
BODY = b"the bytes of a file"
FIND_KEY = "SELECT minio_object_name FROM files WHERE id = $1"


async def call(settings: Settings, *arguments: str) -> subprocess.CompletedProcess[str]:
    environ = make_environment(settings)
    return await asyncio.to_thread(run, ["scrub", *arguments], environ=environ)


async def upload(client: httpx.AsyncClient, resources: Resources) -> tuple[str, str]:
    """Send a file through the API, and return its id and its vault key."""
    answer = await client.post("/files/upload", params={"filename": "f"}, content=BODY)
    assert answer.status_code == 201, answer.text
    file_id: str = answer.json()["id"]
    key = await resources.pool.fetchval(
        "SELECT minio_object_name FROM files WHERE id = $1", file_id
    )
    return file_id, str(key)


async def read_metric(client: httpx.AsyncClient, name: str) -> float:
    lines = (await client.get("/metrics")).text.splitlines()
    [value] = [line.split()[1] for line in lines if line.startswith(name + " ")]
    return float(value)


async def test_a_file_is_damaged_and_whole_again(settings: Settings, logs: object) -> None:
    async with (
        open_resources(settings) as resources,
        api_apart(settings, with_worker=False) as client,
    ):
        (file, key), (other, _) = [await upload(client, resources) for _ in range(2)]
        done = await call(settings)
        assert done.stdout == "0 files damaged, 0 damaged still, 0 whole again\n"
        put_object(resources.vault, key, b"other bytes, as many")
        assert (await call(settings)).stdout == done.stdout  # it is not due
        done = await call(settings, "--all")
        assert done.returncode == 0, done.stderr
        assert done.stdout.startswith(f"damaged       {file} {key} the object has 20 bytes")
        assert done.stdout.endswith("1 files damaged, 0 damaged still, 0 whole again\n")
        answer = await client.get(f"/files/{file}")
        assert answer.json()["type"] == "urn:assay:problem:file-damaged"
        assert (await client.get(f"/files/{other}")).content == BODY
        assert await read_metric(client, "assay_damaged_files") == 1
        assert (await client.get(f"/files/{file}/metadata")).json()["state"] == "damaged"
        done = await call(settings, "--all")
        assert done.stdout.startswith(f"damaged still {file}")
        put_object(resources.vault, key, BODY)
        done = await call(settings, "--all")
        assert done.stdout.startswith(f"whole again   {file}")
        assert (await client.get(f"/files/{file}")).content == BODY
        assert await read_metric(client, "assay_damaged_files") == 0
        assert await read_metric(client, "assay_scrub_stopped") == 0
        history = (await client.get(f"/files/{file}/history")).json()["history"]
        assert [one["state"] for one in history] == ["ready", "damaged", "ready"]


async def test_an_unknown_secret_stops_the_scrub_in_one_line(
    settings: Settings, logs: object
) -> None:
    async with (
        open_resources(settings) as resources,
        api_apart(settings, with_worker=False) as client,
    ):
        await upload(client, resources)
        environ = make_environment(settings) | {"ASSAY_S3_SECRET_KEY": "w" * 40}
        done = await asyncio.to_thread(run, ["scrub", "--all"], environ=environ)
        assert done.returncode == 1
        assert done.stderr.splitlines()[-1].startswith("0 files damaged")
        assert await resources.pool.fetchval("SELECT state FROM files") == "ready"


async def test_the_command_runs_beside_a_worker_only_with_a_rate(settings: Settings) -> None:
    connection = await database.connect(settings.listen_url)
    try:
        assert await locks.try_lock(connection, locks.SCRUB)
        done = await call(settings)
        assert done.returncode == 1
        assert "add --rate" in done.stderr
        assert (await call(settings, "--rate", "1MiB")).returncode == 0
    finally:
        await database.close(connection)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--rate", "0"], "--rate must be a size above zero"),
        (["--rate", "1"], "--rate must be at least 256KiB"),
        (["--rate", "fast"], "--rate must be a size above zero"),
        (["--no-such-option"], "--no-such-option"),
    ],
)
async def test_a_wrong_argument_is_explained(
    settings: Settings, arguments: list[str], said: str
) -> None:
    ended = await call(settings, *arguments)
    assert ended.returncode in (1, 2)
    assert said in ended.stderr
