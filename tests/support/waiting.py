"""Functions that wait for a condition, and never for a fixed time."""

import asyncio
from collections.abc import Awaitable, Callable
from inspect import isawaitable

WAIT_SECONDS = 60


async def until(
    holds: Callable[[], bool | Awaitable[bool]], *, seconds: float = WAIT_SECONDS
) -> None:
    """Evaluate the condition every 20 ms until it is true. Raises TimeoutError after `seconds`."""
    async with asyncio.timeout(seconds):
        while not await evaluate(holds):  # noqa: ASYNC110  # other threads and processes change it
            await asyncio.sleep(0.02)


async def evaluate(holds: Callable[[], bool | Awaitable[bool]]) -> bool:
    found = holds()
    return await found if isawaitable(found) else found
