"""Checks of the database: its version, its schema, and LISTEN."""

import asyncio
from typing import Any, Final

import asyncpg

from service import database
from service.operations.doctor.finding import Finding, failed, ok, warning
from service.resources import Resources

OLDEST_VERSION: Final = 150000
CHANNEL: Final = "assay_doctor"
LISTEN_SECONDS: Final = 3.0
LISTEN_ADVICE: Final = (
    "set ASSAY_DATABASE_LISTEN_URL to PostgreSQL itself: a pooler in transaction mode loses LISTEN,"
    " so that workers and waiting requests only poll"
)


async def check_database(resources: Resources) -> list[Finding]:
    async with resources.pool.acquire() as connection:
        number = int(await connection.fetchval("SHOW server_version_num"))
        found = await database.read_version(connection)
    version = f"PostgreSQL {number // 10000}.{number % 10000}"
    if number < OLDEST_VERSION:
        return [failed("database", version, "run PostgreSQL 15 to 18")]
    expected = database.expected_version()
    if found != expected:
        advice = (
            "run `assay migrate`"
            if found is None or found < expected
            else "the schema is newer than this version of assay: upgrade assay"
        )
        return [
            failed(
                "database",
                f"{version}, schema {found or 'empty'}, but {expected} is required",
                advice,
            )
        ]
    return [ok("database", f"{version}, schema {found}")]


async def check_listen(resources: Resources) -> list[Finding]:
    """Check that a notification arrives.

    One connection listens and another one notifies, as in service/database/notifications.py.
    """
    connection = await asyncpg.connect(
        resources.settings.listen_url, timeout=5, command_timeout=5, statement_cache_size=0
    )
    try:
        heard = asyncio.Event()

        def hear(*_: Any) -> None:
            heard.set()

        await connection.add_listener(CHANNEL, hear)
        async with (
            resources.pool.acquire() as other,
            other.transaction(),
        ):  # a transaction, so that a pooler has to use another connection
            listening = await connection.fetchval(
                "SELECT $1 = ANY (ARRAY(SELECT pg_listening_channels()))", CHANNEL
            )
            await other.execute("SELECT pg_notify($1, '')", CHANNEL)
        return [await judge_listen(heard, listening=listening)]
    finally:
        connection.terminate()


async def judge_listen(heard: asyncio.Event, *, listening: bool) -> Finding:
    try:
        await asyncio.wait_for(heard.wait(), timeout=LISTEN_SECONDS)
    except TimeoutError:
        return failed("listen", f"no notification within {LISTEN_SECONDS:.0f} s", LISTEN_ADVICE)
    if not listening:
        return warning(
            "listen",
            "a later transaction on the same connection no longer listens",
            LISTEN_ADVICE,
        )
    return ok("listen", "a notification from another connection arrived")
