"""The module that Alembic runs: it migrates over one connection, with plain SQL.

An advisory lock makes it safe to start two deployments at once.
"""

import asyncio

import asyncpg
from alembic import context
from sqlalchemy import Connection, pool, text
from sqlalchemy.ext.asyncio import AsyncConnection, create_async_engine

# This is called in a loop, and each call is a transaction. CREATE INDEX CONCURRENTLY waits for the
# end of every transaction that holds an older snapshot, so a process that kept one open while it
# waits for the lock would never get it.
LOCK = text("SELECT pg_try_advisory_lock(7305124001)")


def run(connection: Connection) -> None:
    context.configure(connection=connection, transaction_per_migration=True)
    with context.begin_transaction():
        context.run_migrations()
    connection.commit()


async def take_lock(connection: AsyncConnection) -> bool:
    """Try to take the lock, which lasts until the connection is closed.

    Return False if another connection has it.
    """
    taken: bool = (await connection.execute(LOCK)).scalar_one()
    await connection.commit()
    return taken


async def migrate() -> None:
    url = context.config.attributes.get("url")
    if not url:
        raise SystemExit("run `assay migrate`, which passes the address of the database to Alembic")
    engine = create_async_engine(
        "postgresql+asyncpg://",
        async_creator=lambda: asyncpg.connect(url, timeout=10),
        poolclass=pool.NullPool,
    )
    async with engine.connect() as connection:
        while not await take_lock(connection):  # noqa: ASYNC110  # there is no event
            await asyncio.sleep(0.2)
        await connection.run_sync(run)
    await engine.dispose()


asyncio.run(migrate())
