"""Permits: a running download ends when its file is deleted, or its key is revoked or expires.

1. Register: a download registers its permit, which names its file and its key, before it sends any
   byte of the file. For a link, the key is the one that created the link.
2. Check: every CHECK_SECONDS, one statement finds which permits of this process are still valid:
   the file is `ready`, and the key is neither expired nor revoked.
   - The database is unavailable, or does not answer in time: the downloads continue, and are
     checked again after RETRY_SECONDS.
3. Withdraw: every other download stops before its announced length. The server then aborts the
   client's connection, so that the rest of its buffer is not sent, and the client does not take
   what it has for the whole file. (The buffer holds up to one chunk, which may be the whole file.)
   The next request of the client is refused with the reason.

The expiration of a link is not checked again. Like that of an upload URL, it limits when a request
may begin. A download by a link ends when its file is deleted, or when the key that created the link
is revoked or expires.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator
from typing import Final
from uuid import UUID

import asyncpg
import structlog

from service.database import UNREACHABLE
from service.queries.downloads import find_permitted
from service.resources import Resources

CHECK_SECONDS: Final = 30.0
RETRY_SECONDS: Final = 1.0

log = structlog.get_logger()


class Permits:
    """The permits of all running downloads of one process. They belong to one event loop."""

    def __init__(self, resources: Resources) -> None:
        self.resources = resources
        self.running: set[Permit] = set()

    def issue(self, file_id: UUID, key_id: UUID) -> "Permit":
        return Permit(self, file_id, key_id)

    async def run(self) -> None:
        """Check all permits every CHECK_SECONDS until cancelled."""
        is_checked = True
        while True:
            await asyncio.sleep(CHECK_SECONDS if is_checked else RETRY_SECONDS)
            is_checked = False
            try:
                await self.check()
                is_checked = True
            except (asyncpg.PostgresError, *UNREACHABLE) as error:
                log.warning(
                    "downloads not checked",
                    error=type(error).__name__,
                    retry_seconds=RETRY_SECONDS,
                )
            except Exception:
                log.exception("check of downloads failed")

    async def check(self) -> None:
        """Run steps 2 and 3 of the protocol above once."""
        checked = list(self.running)
        if not checked:
            return
        pairs = {permit.pair for permit in checked}
        valid = await find_permitted(self.resources.pool, pairs)
        for permit in checked:
            if permit.pair not in valid:
                permit.withdrawn.set()


class Permit:
    """The right of one download to continue. `withdrawn` is set when it ends."""

    def __init__(self, permits: Permits, file_id: UUID, key_id: UUID) -> None:
        self.permits = permits
        self.pair = file_id, key_id
        self.withdrawn = asyncio.Event()

    @contextlib.contextmanager
    def registered(self) -> Iterator[None]:
        """Let the permit be checked while the block runs."""
        self.permits.running.add(self)
        try:
            yield
        finally:
            self.permits.running.discard(self)


@contextlib.asynccontextmanager
async def open_permits(resources: Resources) -> AsyncIterator[Permits]:
    permits = Permits(resources)
    task = asyncio.create_task(permits.run())
    try:
        yield permits
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
