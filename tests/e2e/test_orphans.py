"""`assay scrub --orphans` as a command: what it prints, and what is left when it is killed."""

import asyncio
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from uuid import uuid4

import asyncpg
import msgspec
import pytest

from service.object_store import StoreError
from service.resources import open_resources
from service.settings import Secret, Settings, Url
from tests.e2e.commands import run, started
from tests.integration.locks import held_open, until_waiting
from tests.support.backups import back_up, restore
from tests.support.clock import DAY, pass_time
from tests.support.environments import make_environment
from tests.support.invariants import list_bucket
from tests.support.objects import put_object
from tests.support.servers import free_port
from tests.support.waiting import until

pytestmark = pytest.mark.anyio
BODY = b"an object that no row names"
PAGE = 1_000
MANY = 1_100
"""More keys than a page of the listing has."""


async def call(settings: Settings, *arguments: str) -> subprocess.CompletedProcess[str]:
    environ = make_environment(settings)
    return await asyncio.to_thread(run, arguments, environ=environ)


async def scrub(settings: Settings, *arguments: str) -> subprocess.CompletedProcess[str]:
    return await call(settings, "scrub", "--orphans", *arguments)


async def test_orphans_are_shown_and_then_deleted(settings: Settings) -> None:
    async with open_resources(settings) as resources:
        keys = {"an orphan"}
        put_object(resources.incoming, "an orphan", BODY)
        try:
            put_object(resources.incoming, "\x1b[31mred\n", BODY)
            keys.add("\x1b[31mred\n")
        except StoreError:
            pass  # this store has no such keys
        vault_key = str(uuid4())
        put_object(resources.vault, vault_key, BODY)
        done = await scrub(settings, "--delete")
        assert (done.returncode, done.stderr) == (0, "")
        assert f"young      {settings.incoming_bucket}            27 bytes" in done.stdout
        assert f"young      {settings.vault_bucket}            27 bytes" in done.stdout
        assert done.stdout.endswith(
            f"{len(keys) + 1} orphans: {len(keys) + 1} young; the grace is 2 days\n"
        )
        assert "\x1b" not in done.stdout
        assert len(done.stdout.splitlines()) == len(keys) + 2
        await pass_time(resources.pool, 3 * DAY)
        done = await scrub(settings)
        assert f"{len(keys)} deletable, 1 young" in done.stdout
        assert " 3.0 days an orphan\n" in done.stdout
        done = await scrub(settings, "--delete")
        assert f"{len(keys)} doomed, 1 young" in done.stdout
        assert await list_bucket(resources.incoming) == keys
        swept = await call(settings, "sweep")
        assert swept.stdout == f"{len(keys)} leftovers removed\n"
        assert await list_bucket(resources.incoming) == set()
        assert await list_bucket(resources.vault) == {vault_key}
        done = await scrub(settings)
        assert done.stdout.endswith("1 orphans: 1 young; the grace is 2 days\n")


@pytest.mark.one_store
async def test_a_killed_run_is_continued_by_the_next_one(
    settings: Settings, tmp_path: Path
) -> None:
    """Kill it while the statement for the second page waits for a lock."""
    async with open_resources(settings) as resources:
        keys = [f"{number:032}" for number in range(MANY)]
        with ThreadPoolExecutor(8) as threads:
            list(threads.map(lambda key: put_object(resources.incoming, key, BODY), keys))
        done = await scrub(settings)
        assert f"{MANY} young" in done.stdout
        await pass_time(resources.pool, 3 * DAY)
        async with held_open(resources.pool) as connection:
            await connection.execute(
                "INSERT INTO reservations (vault_key, scratch_key, lease, lease_until)"
                " VALUES (gen_random_uuid(), $1, gen_random_uuid(), now())",
                keys[-1],
            )
            command = ["scrub", "--orphans", "--delete"]
            environ = make_environment(settings)
            with started(command, tmp_path / "log", environ=environ) as process:
                await asyncio.to_thread(read_lines, process, PAGE)
                [session] = await until_waiting(resources.pool, 1)
                process.kill()
            # Otherwise the server would finish the statement of the killed process.
            await connection.execute("SELECT pg_terminate_backend($1)", session)
        await until(lambda: has_ended(resources.pool, session))
        doomed = await resources.pool.fetch("SELECT scratch_key FROM reservations")
        assert {row["scratch_key"] for row in doomed} == {*keys[:PAGE]}
        done = await scrub(settings, "--delete")
        assert f"100 orphans: {MANY - PAGE} doomed;" in done.stdout
        await call(settings, "sweep")
        assert await list_bucket(resources.incoming) == set()


def read_lines(process: subprocess.Popen[str], count: int) -> None:
    """Read so many lines, without which the command would wait until the pipe has room."""
    assert process.stdout is not None
    for _ in range(count):
        assert process.stdout.readline().startswith("doomed ")


async def has_ended(pool: asyncpg.Pool, session: int) -> bool:
    return not await pool.fetchval("SELECT 1 FROM pg_stat_activity WHERE pid = $1", session)


async def test_a_restored_database_is_explained(settings: Settings) -> None:
    async with open_resources(settings) as resources:
        await resources.guard.check()
        await back_up(resources.pool)
        await resources.pool.execute(
            "UPDATE vault_marker SET raised_at = now() - interval '1 hour'"
        )
        resources.guard.due_at = 0.0
        await resources.guard.check()
        await restore(resources.pool)
        put_object(resources.incoming, "an orphan", BODY)
        for arguments in ([], ["--delete"]):
            ended = await scrub(settings, *arguments)
            assert (ended.returncode, ended.stdout) == (1, "")
            last = ended.stderr.splitlines()[-1]
            assert last.startswith("no orphans; not finished: the database was restored")
        assert await resources.pool.fetchval("SELECT count(*) FROM incoming_orphans") == 0


@pytest.mark.parametrize("which", ["secret", "endpoint", "database"])
async def test_a_server_that_does_not_answer_is_explained(settings: Settings, which: str) -> None:
    changes: dict[str, object] = {
        "secret": {"s3_secret_key": Secret("another secret, as long as one")},
        "endpoint": {"s3_endpoint": Url(f"http://127.0.0.1:{free_port()}")},
        "database": {"database_url": f"postgresql://127.0.0.1:{free_port()}/assay"},
    }
    changed = changes[which]
    assert isinstance(changed, dict)
    ended = await scrub(msgspec.structs.replace(settings, **changed), "--delete")
    assert ended.returncode == 1
    assert "Traceback" not in ended.stderr
    assert ("the database is" in ended.stderr) == (which == "database")
    assert ("cannot be read" in ended.stderr) == (which != "database")
