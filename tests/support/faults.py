"""Buckets and pools that fail on purpose.

They pause, lose responses, end reads early, answer late, or execute a request twice.
"""

import asyncio
import contextlib
import inspect
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

from service.object_store import StoreUnavailable

Hook = Callable[[], Awaitable[None] | None]
"""A function that runs before or after a call.

It is a plain function for `open`, `put_now` and `put_part`, which run in the caller's thread.
"""


def lose_answer() -> None:
    """Raise the error of an unavailable store, as a hook.

    Before a call, the request does not reach the store. After a call, only the response is lost.
    The caller cannot tell which of the two happened.
    """
    raise StoreUnavailable("the store is unavailable")


def lose_connection() -> None:
    """Raise the error of a lost database connection, as a hook like `lose_answer`."""
    raise ConnectionResetError("the connection was lost")


class FaultyBucket:
    """A bucket that passes calls on to a real one, except for the faults that it was given."""

    def __init__(self, bucket: Any) -> None:
        self.bucket = bucket
        self.name = bucket.name
        self.before: dict[str, Hook] = {}
        self.after: dict[str, Hook] = {}
        self.late: set[str] = set()
        """Calls that time out, and whose requests take effect only when `land` is called."""
        self.repeated: set[str] = set()
        """Calls whose requests take effect at once, and again when `land` is called."""
        self.cut_reads_after: int | None = None
        """The number of bytes that a reader returns before its connection is lost."""
        self.wrong_reads = 0
        """The number of reads, from the next one on, whose first byte is wrong."""
        self.only: set[str] | None = None
        """The keys that the faults apply to, also as the source of a copy. None means all keys."""
        self.calls: Counter[str] = Counter()
        self.under_way: list[Callable[[], Any]] = []

    def __getattr__(self, name: str) -> Any:
        real = getattr(self.bucket, name)
        if name == "list_keys" or not callable(real):
            return real
        return (
            self._in_coroutine(name, real)
            if inspect.iscoroutinefunction(real)
            else self._in_thread(name, real)
        )

    def _in_coroutine(self, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        async def call(*args: Any, **options: Any) -> Any:
            if not self._is_meant(*args, *options.values()):
                return await real(*args, **options)
            await run_hook(self.before.get(name))
            self._note(name, real, *args, **options)
            answer = await real(*args, **options)
            await run_hook(self.after.get(name))
            if name == "get" and self.wrong_reads:
                self.wrong_reads -= 1
                seen, body = answer
                return seen, bytes([body[0] ^ 1]) + body[1:]
            return answer

        return call

    def _in_thread(self, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **options: Any) -> Any:
            if not self._is_meant(*args, *options.values()):
                return real(*args, **options)
            self.before.get(name, do_nothing)()
            self._note(name, real, *args, **options)
            answer = real(*args, **options)
            self.after.get(name, do_nothing)()
            if name == "open" and self.cut_reads_after is not None:
                return CutReader(answer, self.cut_reads_after)
            if name == "open" and self.wrong_reads:
                self.wrong_reads -= 1
                return WrongReader(answer)
            return answer

        return call

    def _is_meant(self, *values: Any) -> bool:
        return self.only is None or any(
            isinstance(value, str) and value in self.only for value in values
        )

    def _note(self, name: str, real: Callable[..., Any], *args: Any, **options: Any) -> None:
        self.calls[name] += 1
        if name in self.late or name in self.repeated:
            again = (
                {**options, "send_before": float("inf")} if "send_before" in options else options
            )
            self.under_way.append(lambda: real(*args, **again))
        if name in self.late:
            raise StoreUnavailable("no response was received in time")

    async def land(self) -> None:
        """Let the requests that are in progress take effect. Raises the store's error, if any."""
        while self.under_way:
            answer = self.under_way.pop(0)()
            if inspect.isawaitable(answer):
                await answer


async def run_hook(hook: Hook | None) -> None:
    outcome = hook() if hook else None
    if outcome is not None:
        await outcome


def do_nothing() -> None:
    """Do nothing, in place of a missing hook."""


class SpoiltBucket(FaultyBucket):
    """A bucket whose store cannot read the objects under some keys, nor copy from them."""

    def __init__(self, bucket: Any, keys: set[str]) -> None:
        super().__init__(bucket)
        self.only = keys
        self.before = dict.fromkeys(
            ("head", "get", "open", "copy_from", "copy_part_from"), refuse_to_read
        )


def refuse_to_read() -> None:
    """Raise MinIO's error for an object whose bytes on the disk are damaged, as a hook."""
    raise StoreUnavailable("503 SlowDownRead", status=503, code="SlowDownRead")


class CutReader:
    """A reader that returns an object's bytes until its connection is lost."""

    def __init__(self, reader: Any, left: int) -> None:
        self.reader = reader
        self.left = left
        self.content_length, self.etag = reader.content_length, reader.etag

    def read(self, size: int) -> bytes:
        if self.left <= 0:
            raise StoreUnavailable("truncated")
        piece: bytes = self.reader.read(min(size, self.left))
        self.left -= len(piece)
        return piece

    def __enter__(self) -> "CutReader":
        return self

    def __exit__(self, *_: object) -> None:
        self.reader.close()


class WrongReader:
    """A reader that returns an object's bytes with a wrong first byte."""

    def __init__(self, reader: Any) -> None:
        self.reader = reader
        self.content_length, self.etag = reader.content_length, reader.etag
        self.begun = False

    def read(self, size: int) -> bytes:
        piece: bytes = self.reader.read(size)
        if self.begun or not piece:
            return piece
        self.begun = True
        return bytes([piece[0] ^ 1]) + piece[1:]

    def __enter__(self) -> "WrongReader":
        return self

    def __exit__(self, *_: object) -> None:
        self.reader.close()


class FaultyPool:
    """A pool that passes calls on to a real one.

    `before` and `after` run around the first execution of `statement`.
    """

    def __init__(
        self, pool: Any, statement: str, *, before: Hook | None = None, after: Hook | None = None
    ) -> None:
        self.pool = pool
        self.statement = statement
        self.before = before
        self.after = after
        self.calls = 0

    def __getattr__(self, name: str) -> Any:
        real = getattr(self.pool, name)
        if name not in ("fetch", "fetchrow", "fetchval", "execute"):
            return real

        async def call(statement: str, *args: Any) -> Any:
            if statement != self.statement or self.calls:
                return await real(statement, *args)
            self.calls += 1
            await run_hook(self.before)
            answer = await real(statement, *args)
            await run_hook(self.after)
            return answer

        return call

    @contextlib.asynccontextmanager
    async def acquire(self) -> AsyncIterator["FaultyPool"]:
        """Yield a connection that counts its executions of `statement` as the pool's."""
        async with self.pool.acquire() as real:
            connection = FaultyPool(real, self.statement, before=self.before, after=self.after)
            connection.calls = self.calls
            try:
                yield connection
            finally:
                self.calls = connection.calls


class Gate:
    """A hook that holds up its callers until the gate is opened.

    `reached` is set when the first caller arrives.
    """

    def __init__(self) -> None:
        self.reached = asyncio.Event()
        self.opened = asyncio.Event()

    async def __call__(self) -> None:
        self.reached.set()
        await self.opened.wait()
