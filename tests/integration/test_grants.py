"""Remembered grants of API keys: what ends them, over a real PostgreSQL."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from datetime import timedelta

import asyncpg
import pytest

from service.auth.principals import make_key
from service.database import grants
from service.database.grants import Grants
from service.database.notifications import Notifications
from service.model import Sha256, make_id
from service.queries import keys
from service.queries.keys import Grant, create_key, find_grant
from service.queries.rows import Database
from tests.support.listeners import running
from tests.support.waiting import until

pytestmark = [pytest.mark.anyio, pytest.mark.one_store]

IN_TIME = 30
HOUR = 3600.0
REVOKE = "UPDATE api_keys SET revoked_at = now()"
SILENCE = "ALTER TABLE api_keys DISABLE TRIGGER api_keys_changed"
LISTENERS = """
    SELECT pg_terminate_backend(pid) FROM pg_stat_activity
    WHERE datname = current_database() AND pid <> pg_backend_pid()
      AND (query LIKE 'LISTEN%' OR query LIKE 'SELECT pg_notify(%')
"""


@pytest.fixture
def long_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a grant be remembered for longer than a test, so that only a notification ends it."""
    monkeypatch.setattr(grants, "REMEMBERED_SECONDS", HOUR)


@pytest.fixture
async def secret(pool: asyncpg.Pool) -> Sha256:
    return await new_key(pool, None)


async def new_key(pool: asyncpg.Pool, lasts: timedelta | None) -> Sha256:
    _, secret = make_key()
    expires_at = (
        None if lasts is None else await pool.fetchval("SELECT now() + $1::interval", lasts)
    )
    await create_key(
        pool,
        key_id=make_id(),
        owner="ann",
        name="laptop",
        secret=secret,
        scopes=["read"],
        expires_at=expires_at,
    )
    return secret


@contextlib.asynccontextmanager
async def remembering(database_url: str, pool: asyncpg.Pool) -> AsyncIterator[Grants]:
    async with running(database_url) as notifications:
        yield Grants(pool, notifications)


@contextlib.asynccontextmanager
async def unreadable_keys(database_url: str) -> AsyncIterator[None]:
    """Keep every statement that reads a key waiting."""
    connection = await asyncpg.connect(database_url)
    try:
        async with connection.transaction():
            await connection.execute("LOCK TABLE api_keys IN ACCESS EXCLUSIVE MODE")
            yield
    finally:
        await connection.close()


async def until_unknown(remembered: Grants, secret: Sha256) -> None:
    async def is_unknown() -> bool:
        return await remembered.find(secret) is None

    await until(is_unknown)


@pytest.mark.usefixtures("long_memory")
async def test_a_remembered_grant_needs_no_statement(
    database_url: str, pool: asyncpg.Pool, secret: Sha256
) -> None:
    async with remembering(database_url, pool) as remembered:
        first = await remembered.find(secret)
        assert first is not None
        async with unreadable_keys(database_url), asyncio.timeout(IN_TIME):
            assert await remembered.find(secret) is first


@pytest.mark.usefixtures("long_memory")
@pytest.mark.parametrize("change", [REVOKE, "DELETE FROM api_keys", "TRUNCATE api_keys"])
async def test_plain_sql_that_ends_a_key_ends_its_grant(
    database_url: str, pool: asyncpg.Pool, secret: Sha256, change: str
) -> None:
    async with remembering(database_url, pool) as remembered:
        assert await remembered.find(secret) is not None
        await pool.execute(change)
        await until_unknown(remembered, secret)


async def test_a_lost_notification_delays_a_revocation_by_the_bound_only(
    database_url: str, pool: asyncpg.Pool, secret: Sha256, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(grants, "REMEMBERED_SECONDS", 0.5)
    await pool.execute(SILENCE)
    async with remembering(database_url, pool) as remembered:
        assert await remembered.find(secret) is not None
        await pool.execute(REVOKE)
        await until_unknown(remembered, secret)


@pytest.mark.usefixtures("long_memory")
async def test_a_key_that_is_revoked_while_it_is_read_is_not_remembered(
    database_url: str, pool: asyncpg.Pool, secret: Sha256, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with remembering(database_url, pool) as remembered:
        before = remembered.notifications.key_changes

        async def read_too_early(database: Database, secret: Sha256) -> Grant | None:
            grant = await find_grant(database, secret)
            await pool.execute(REVOKE)
            await until(lambda: remembered.notifications.key_changes > before)
            return grant

        monkeypatch.setattr(keys, "find_grant", read_too_early)
        assert await remembered.find(secret) is not None
        monkeypatch.undo()
        monkeypatch.setattr(grants, "REMEMBERED_SECONDS", HOUR)
        assert await remembered.find(secret) is None


@pytest.mark.usefixtures("long_memory")
async def test_a_reconnection_forgets_every_grant(
    database_url: str, pool: asyncpg.Pool, secret: Sha256
) -> None:
    async with remembering(database_url, pool) as remembered:
        notifications = remembered.notifications
        before = notifications.key_changes
        assert await remembered.find(secret) is not None
        await pool.execute(SILENCE)
        await pool.execute(REVOKE)
        assert await remembered.find(secret) is not None  # the notification is lost
        await pool.execute(LISTENERS)
        await until(lambda: notifications.connected and notifications.key_changes > before)
        assert await remembered.find(secret) is None


@pytest.mark.usefixtures("long_memory")
async def test_a_process_that_does_not_listen_remembers_nothing(
    database_url: str, pool: asyncpg.Pool, secret: Sha256
) -> None:
    remembered = Grants(pool, Notifications(database_url))
    assert await remembered.find(secret) is not None
    await pool.execute(REVOKE)
    assert await remembered.find(secret) is None


@pytest.mark.usefixtures("long_memory")
async def test_a_grant_ends_with_its_key(database_url: str, pool: asyncpg.Pool) -> None:
    secret = await new_key(pool, timedelta(seconds=2))
    async with remembering(database_url, pool) as remembered:
        assert await remembered.find(secret) is not None
        await until_unknown(remembered, secret)


async def test_the_number_of_remembered_grants_is_bounded(
    database_url: str, pool: asyncpg.Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(grants, "MOST_REMEMBERED", 3)
    made: list[Sha256] = [await new_key(pool, None) for _ in range(8)]
    async with remembering(database_url, pool) as remembered:
        for secret in made:
            assert await remembered.find(secret) is not None
            assert len(remembered.remembered) <= 3
        assert await remembered.find(make_key()[1]) is None
        assert len(remembered.remembered) <= 3
