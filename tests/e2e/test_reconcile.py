"""`assay reconcile` as a command, beside a running API: what readers and the operator see."""

import asyncio
import subprocess

import asyncpg
import httpx
import pytest

from service.resources import open_resources
from service.settings import Settings
from tests.e2e.commands import run
from tests.e2e.conftest import api_apart
from tests.support.backups import back_up, restore
from tests.support.environments import make_environment
from tests.support.objects import put_object

pytestmark = pytest.mark.anyio
BODY = b"the bytes of a file"


async def call(settings: Settings, *arguments: str) -> subprocess.CompletedProcess[str]:
    environ = make_environment(settings)
    return await asyncio.to_thread(run, ["reconcile", *arguments], environ=environ)


async def upload(client: httpx.AsyncClient, name: str) -> str:
    """Send a file through the API, and return its id."""
    answer = await client.post("/files/upload", params={"filename": name}, content=BODY)
    assert answer.status_code == 201, answer.text
    file_id: str = answer.json()["id"]
    return file_id


async def let_marker_be_due(pool: asyncpg.Pool) -> None:
    """Have the next process that starts raise the marker, as every process does each minute."""
    await pool.execute("UPDATE vault_marker SET raised_at = now() - interval '1 hour'")


async def test_lost_files_are_taken_back(settings: Settings, logs: object) -> None:
    async with open_resources(settings) as resources:
        async with api_apart(settings, with_worker=False) as client:
            kept = await upload(client, "kept")
            assert (await client.get("/health/ready?full=1")).status_code == 200
            await back_up(resources.pool)
            lost = await upload(client, "lost ü.txt")
        await let_marker_be_due(resources.pool)
        async with api_apart(settings, with_worker=False) as client:
            assert (await client.get("/health/ready?full=1")).status_code == 200
        await restore(resources.pool)
        # The key of the lost file was reserved before the backup. Its lease would end in 5 minutes.
        await resources.pool.execute("UPDATE reservations SET lease_until = now() - interval '1 s'")
        async with api_apart(settings, with_worker=False) as client:
            answer = await client.get("/health/ready?full=1")
            assert answer.status_code == 503
            assert "restored to an earlier state" in answer.json()["stopped"]
            assert (await client.get("/health/ready")).json()["status"] == "degraded"
            assert (await client.get(f"/files/{kept}")).content == BODY
            assert (await client.get(f"/files/{lost}")).status_code == 404
            reported = await call(settings)
            assert reported.returncode == 0, reported.stderr
            assert lost in reported.stdout
            assert reported.stdout.endswith(
                "0 objects taken back, 0 files damaged, 0 whole again, 1 objects without a row;"
                " the database agrees with the vault\n"
            )
            done = await call(settings, "--adopt-as-recorded")
            assert done.returncode == 0, done.stderr
            assert "1 objects taken back" in done.stdout
            again = await client.get(f"/files/{lost}")
            assert again.content == BODY
            assert "lost%20%C3%BC.txt" in again.headers["Content-Disposition"]
        async with api_apart(settings, with_worker=False) as client:
            assert (await client.get("/health/ready?full=1")).status_code == 200


async def test_a_damaged_file_is_not_served_until_it_is_whole(
    settings: Settings, logs: object
) -> None:
    async with (
        open_resources(settings) as resources,
        api_apart(settings, with_worker=False) as client,
    ):
        file = await upload(client, "f")
        key = str(
            await resources.pool.fetchval("SELECT minio_object_name FROM files WHERE id = $1", file)
        )
        put_object(resources.vault, key, b"other bytes, as many")
        done = await call(settings)
        assert f"damaged   {key}" in done.stdout
        answer = await client.get(f"/files/{file}")
        assert answer.json()["type"] == "urn:assay:problem:file-damaged"
        put_object(resources.vault, key, BODY)
        done = await call(settings)
        assert f"whole     {key}" in done.stdout
        assert (await client.get(f"/files/{file}")).content == BODY
        history = (await client.get(f"/files/{file}/history")).json()["history"]
        assert [one["state"] for one in history] == ["ready", "damaged", "ready"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--adopt", "ann", "--adopt-as-recorded"], "exclude each other"),
        (["--adopt", ""], "--adopt must be a name"),
        (["--adopt", "a\nb"], "--adopt must be a name"),
        (["--no-such-option"], "--no-such-option"),
    ],
)
async def test_a_wrong_argument_is_explained(
    settings: Settings, arguments: list[str], said: str
) -> None:
    ended = await call(settings, *arguments)
    assert ended.returncode in (1, 2)
    assert said in ended.stderr
