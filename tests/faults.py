"""Servers that misbehave on purpose: a bucket and a pool that pause, lose answers, or answer late."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from service.object_store import StoreUnavailable

Hook = Callable[[], Awaitable[None]]


class FaultyBucket:
    """Passes everything on to a real bucket; `before` and `after` run around the named call."""

    def __init__(self, bucket: Any) -> None:
        self.bucket = bucket
        self.name = bucket.name
        self.before: dict[str, Hook] = {}
        self.after: dict[str, Hook] = {}

    def __getattr__(self, name: str) -> Any:
        real = getattr(self.bucket, name)
        if name not in self.before and name not in self.after:
            return real

        async def call(*args: Any, **options: Any) -> Any:
            if name in self.before:
                await self.before[name]()
            answer = await real(*args, **options)
            if name in self.after:
                await self.after[name]()
            return answer

        return call


class LateCopies:
    """A vault whose copy requests time out and take effect when `land` is called."""

    def __init__(self, bucket: Any) -> None:
        self.bucket = bucket
        self.name = bucket.name
        self.under_way: list[Callable[[], Awaitable[Any]]] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self.bucket, name)

    async def copy_from(self, *args: Any, **options: Any) -> Any:
        self.under_way.append(lambda: self.bucket.copy_from(*args, **{**options, "send_before": float("inf")}))
        raise StoreUnavailable("the answer did not come in time")

    async def land(self) -> None:
        for send in self.under_way:
            await send()


class FaultyPool:
    """Passes statements on to a real pool; one that contains `marker` is answered by a lost connection, before or after it ran."""

    def __init__(self, pool: Any, marker: str, *, runs: bool) -> None:
        self.pool = pool
        self.marker = marker
        self.runs = runs
        self.lost = 0

    def __getattr__(self, name: str) -> Any:
        real = getattr(self.pool, name)
        if name not in ("fetch", "fetchrow", "fetchval", "execute"):
            return real

        async def call(statement: str, *args: Any) -> Any:
            if self.marker not in statement or self.lost:
                return await real(statement, *args)
            self.lost += 1
            if self.runs:
                await real(statement, *args)
            raise ConnectionResetError("the connection was lost")

        return call


class Gate:
    """A hook that stops whoever comes until it is opened, and says that somebody came."""

    def __init__(self) -> None:
        self.reached = asyncio.Event()
        self.opened = asyncio.Event()

    async def __call__(self) -> None:
        self.reached.set()
        await self.opened.wait()
