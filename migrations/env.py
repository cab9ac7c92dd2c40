"""Alembic's entry: one connection, plain SQL, and an advisory lock so that two deployments at once are safe."""

import asyncio

import asyncpg
from alembic import context
from sqlalchemy import Connection, pool, text
from sqlalchemy.ext.asyncio import create_async_engine

# pg_try_advisory_lock in a loop: a blocking advisory lock holds a snapshot, and CREATE INDEX CONCURRENTLY waits for every snapshot.
LOCK = text("SELECT pg_try_advisory_lock(7305124001)")


def run(connection: Connection) -> None:
    context.configure(connection=connection, transaction_per_migration=True)
    with context.begin_transaction():
        context.run_migrations()
    connection.commit()


async def migrate() -> None:
    url = context.config.attributes.get("url")
    if not url:
        raise SystemExit("run `assay migrate`: it hands Alembic the database's address")
    engine = create_async_engine(
        "postgresql+asyncpg://",
        async_creator=lambda: asyncpg.connect(url, timeout=10),
        poolclass=pool.NullPool,
    )
    async with engine.connect() as connection:
        while not (await connection.execute(LOCK)).scalar():  # noqa: ASYNC110  # the lock is another process's
            await asyncio.sleep(0.2)
        await connection.commit()
        await connection.run_sync(run)
    await engine.dispose()


asyncio.run(migrate())
