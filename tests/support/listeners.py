"""A connected listener, as each process has one."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

from service.database.notifications import Notifications
from tests.support.waiting import until


@contextlib.asynccontextmanager
async def running(database_url: str) -> AsyncIterator[Notifications]:
    """Yield notifications that are connected, and were woken by no signal since."""
    notifications = Notifications(database_url)
    task = asyncio.create_task(notifications.run())
    await until_connected(notifications)
    notifications.work.clear()
    try:
        yield notifications
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def until_connected(notifications: Notifications) -> None:
    await until(lambda: notifications.connected)
