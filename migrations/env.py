"""The module that Alembic runs: it migrates over one connection, with plain SQL.

An advisory lock makes it safe to start two deployments at once.
"""

import asyncio

import asyncpg
from alembic import context
from sqlalchemy import Connection, pool, text
from sqlalchemy.ext.asyncio import create_async_engine

# This is called in a loop. A statement that waits for the lock would hold a snapshot, and CREATE
# INDEX CONCURRENTLY waits until every older snapshot is released.
LOCK = text("SELECT pg_try_advisory_lock(7305124001)")


def run(connection: Connection) -> None:
    context.configure(connection=connection, transaction_per_migration=True)
    with context.begin_transaction():
        context.run_migrations()
    connection.commit()


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
        while not (await connection.execute(LOCK)).scalar():  # noqa: ASYNC110  # there is no event
            await asyncio.sleep(0.2)
        await connection.commit()
        await connection.run_sync(run)
    await engine.dispose()


asyncio.run(migrate())
