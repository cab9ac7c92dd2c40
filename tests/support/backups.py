"""Backups of a test's database inside of the database itself.

A restore brings back the rows and not the identity of the database, as a copy of its disk does.
"""

import asyncpg

TABLES = (
    "files",
    "file_history",
    "reservations",
    "incoming_orphans",
    "idempotency_keys",
    "history_horizons",
    "vault_marker",
    "scrub",
    "incoming_orphans",
)
COLUMNS = """
    SELECT string_agg(quote_ident(column_name), ', ') FROM information_schema.columns
    WHERE table_schema = 'public' AND table_name = $1 AND is_generated = 'NEVER'
"""


async def back_up(pool: asyncpg.Pool) -> None:
    """Keep the present rows. An earlier backup is replaced."""
    async with pool.acquire() as connection, connection.transaction():
        await connection.execute("DROP SCHEMA IF EXISTS backup CASCADE; CREATE SCHEMA backup")
        for table in TABLES:
            await connection.execute(f"CREATE TABLE backup.{table} AS TABLE public.{table}")


async def restore(pool: asyncpg.Pool) -> None:
    """Bring back the rows of the last backup, without the triggers that record transitions."""
    async with pool.acquire() as connection, connection.transaction():
        await connection.execute("SET LOCAL session_replication_role = replica")
        for table in TABLES:
            columns = await connection.fetchval(COLUMNS, table)
            await connection.execute(f"DELETE FROM {table}")  # noqa: S608  # a name above
            await connection.execute(
                f"INSERT INTO {table} ({columns}) OVERRIDING SYSTEM VALUE"  # noqa: S608  # as above
                f" SELECT {columns} FROM backup.{table}"
            )
