"""The resources of a process, opened once and passed as arguments.

Two apps in one process share nothing.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator

import asyncpg
import msgspec
import structlog

from service import database
from service.database.notifications import Notifications
from service.object_store import Bucket, ObjectStore
from service.object_store.presign import Signer
from service.settings import Settings

log = structlog.get_logger()


class Resources(msgspec.Struct, frozen=True, kw_only=True):
    """What a process opens once.

    `signer` signs URLs for the endpoint that clients use. `incoming` and `vault` send the requests
    of the service identity.
    """

    settings: Settings
    pool: asyncpg.Pool
    store: ObjectStore
    incoming: Bucket
    vault: Bucket
    signer: Signer
    notifications: Notifications


@contextlib.asynccontextmanager
async def open_resources(settings: Settings) -> AsyncIterator[Resources]:
    """Open the resources, and close them at the end of the block.

    No connection is made before it is needed, so that a process can start while the database or the
    store is unavailable.
    """
    pool = await database.open_pool(settings)
    store = ObjectStore(
        settings.s3_endpoint,
        access_key=settings.s3_access_key,
        secret_key=settings.s3_secret_key,
        region=settings.s3_region,
    )
    notifications = Notifications(settings.listen_url)
    listening = asyncio.create_task(notifications.run())
    try:
        yield Resources(
            settings=settings,
            pool=pool,
            store=store,
            incoming=store.bucket(settings.incoming_bucket),
            vault=store.bucket(settings.vault_bucket),
            signer=make_signer(settings),
            notifications=notifications,
        )
    finally:
        await notifications.flush()
        listening.cancel()
        await asyncio.gather(listening, return_exceptions=True)
        store.close()
        await close_pool(pool)


def make_signer(settings: Settings) -> Signer:
    return Signer(
        settings.public_endpoint,
        access_key=settings.s3_signer_access_key,
        secret_key=settings.s3_signer_secret_key,
        region=settings.s3_region,
        bind_absent_headers=settings.s3_bind_absent_headers,
    )


async def close_pool(pool: asyncpg.Pool) -> None:
    """Close the pool.

    After 5 s, terminate its connections, because the database may be unavailable.
    """
    try:
        await asyncio.wait_for(pool.close(), timeout=5)
    except Exception as error:
        log.warning("connections not closed", error=type(error).__name__)
        pool.terminate()
