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
from service.database.grants import Grants
from service.database.notifications import Notifications
from service.database.reserved_keys import ReservedKeys, open_reserved_keys
from service.database.settled_uploads import SettledUploads
from service.marker import Guard
from service.object_store import Bucket, ObjectStore
from service.object_store.presign import Signer
from service.object_store.signing import RequestSigner
from service.settings import Settings, WorkerSettings

log = structlog.get_logger()


class WorkerResources(msgspec.Struct, frozen=True, kw_only=True):
    """What a worker opens once.

    `incoming` and `vault` send the requests of the service identity.
    """

    settings: WorkerSettings
    pool: asyncpg.Pool
    store: ObjectStore
    incoming: Bucket
    vault: Bucket
    notifications: Notifications
    guard: Guard


class Resources(WorkerResources, frozen=True, kw_only=True):
    """What the API opens once.

    `signer` signs URLs for the endpoint that clients use. `reader` signs the requests by which
    nginx reads the vault, if it sends the bytes of downloads.
    """

    settings: Settings
    grants: Grants
    reserved_keys: ReservedKeys
    settled_uploads: SettledUploads
    signer: Signer
    reader: RequestSigner | None = None


@contextlib.asynccontextmanager
async def open_resources(settings: Settings) -> AsyncIterator[Resources]:
    """Open the resources of the API, and close them at the end of the block."""
    async with (
        open_worker_resources(settings) as opened,
        open_reserved_keys(opened.pool, opened.notifications) as reserved_keys,
    ):
        yield Resources(
            settings=settings,
            pool=opened.pool,
            store=opened.store,
            incoming=opened.incoming,
            vault=opened.vault,
            notifications=opened.notifications,
            guard=opened.guard,
            grants=Grants(opened.pool, opened.notifications),
            reserved_keys=reserved_keys,
            settled_uploads=SettledUploads(opened.notifications),
            signer=make_signer(settings),
            reader=make_reader(settings),
        )


@contextlib.asynccontextmanager
async def open_worker_resources(settings: WorkerSettings) -> AsyncIterator[WorkerResources]:
    """Open the resources of a worker, and close them at the end of the block.

    No connection is made before it is needed, so that a process can start while the database or the
    store is unavailable.
    """
    pool = await database.open_pool(settings)
    store = open_store(settings)
    notifications = Notifications(settings.listen_url)
    listening = asyncio.create_task(notifications.run())
    vault = store.bucket(settings.vault_bucket)
    try:
        yield WorkerResources(
            settings=settings,
            pool=pool,
            store=store,
            incoming=store.bucket(settings.incoming_bucket),
            vault=vault,
            notifications=notifications,
            guard=Guard(pool, vault, settings.listen_url),
        )
    finally:
        await notifications.flush()
        listening.cancel()
        await asyncio.gather(listening, return_exceptions=True)
        store.close()
        await close_pool(pool)


def open_store(settings: WorkerSettings) -> ObjectStore:
    """Return the store as the service identity accesses it. The caller closes it."""
    return ObjectStore(
        settings.s3_endpoint,
        access_key=settings.s3_access_key,
        secret_key=settings.s3_secret_key,
        region=settings.s3_region,
    )


def make_signer(settings: Settings) -> Signer:
    return Signer(
        settings.public_endpoint,
        access_key=settings.s3_signer_access_key,
        secret_key=settings.s3_signer_secret_key,
        region=settings.s3_region,
        bind_absent_headers=settings.s3_bind_absent_headers,
    )


def make_reader(settings: Settings) -> RequestSigner | None:
    access_key, secret_key = settings.s3_reader_access_key, settings.s3_reader_secret_key
    if access_key is None or secret_key is None:
        return None
    return RequestSigner(
        settings.s3_endpoint,
        access_key=access_key,
        secret_key=secret_key,
        region=settings.s3_region,
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
