"""Servers that misbehave on purpose: a bucket and a pool that pause, lose answers, cut them short, answer late or do things twice."""

import asyncio
import inspect
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any

from service.object_store import StoreUnavailable

Hook = Callable[[], Awaitable[None] | None]
"""What happens around a call. Plain around those that run in the caller's thread: `open`, `put_now`, `put_part`."""


def lose_answer() -> None:
    """A hook: before a call the request never arrived, after it the answer is lost. Whoever asked can't tell which."""
    raise StoreUnavailable("the store is away")


def lose_connection() -> None:
    """The same, of a database."""
    raise ConnectionResetError("the connection was lost")


class FaultyBucket:
    """Passes everything on to a real bucket, but for the calls whose names it was given."""

    def __init__(self, bucket: Any) -> None:
        self.bucket = bucket
        self.name = bucket.name
        self.before: dict[str, Hook] = {}
        self.after: dict[str, Hook] = {}
        self.late: set[str] = set()
        """Calls that time out, and whose requests take effect when `land` is called."""
        self.repeated: set[str] = set()
        """Calls whose requests take effect at once, and once more when `land` is called."""
        self.cut_reads_after: int | None = None
        """Bytes that a reader gives before its connection is lost."""
        self.wrong_reads = 0
        """Readers, from the next one on, that give another first byte than the object has."""
        self.only: set[str] | None = None
        """The keys that faults are for, as the source of a copy too; None: all."""
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
            raise StoreUnavailable("the answer did not come in time")

    async def land(self) -> None:
        """What was under way takes effect. Raises what the store says to it."""
        while self.under_way:
            answer = self.under_way.pop(0)()
            if inspect.isawaitable(answer):
                await answer


async def run_hook(hook: Hook | None) -> None:
    outcome = hook() if hook else None
    if outcome is not None:
        await outcome


def do_nothing() -> None:
    """No hook."""


class SpoiltBucket(FaultyBucket):
    """A bucket whose store cannot read the objects under some keys of incoming, also as the source of a copy."""

    def __init__(self, bucket: Any, keys: set[str]) -> None:
        super().__init__(bucket)
        self.only = keys
        self.before = dict.fromkeys(("head", "open", "copy_from", "copy_part_from"), refuse_to_read)


def refuse_to_read() -> None:
    """A hook: MinIO's answer about an object whose bytes on the disk are damaged."""
    raise StoreUnavailable("503 SlowDownRead", status=503, code="SlowDownRead")


class CutReader:
    """An object's bytes up to the moment at which the connection is lost."""

    def __init__(self, reader: Any, left: int) -> None:
        self.reader = reader
        self.left = left
        self.content_length = reader.content_length

    def read(self, size: int) -> bytes:
        if self.left <= 0:
            raise StoreUnavailable("cut short")
        piece: bytes = self.reader.read(min(size, self.left))
        self.left -= len(piece)
        return piece

    def __enter__(self) -> "CutReader":
        return self

    def __exit__(self, *_: object) -> None:
        self.reader.close()


class WrongReader:
    """An object's bytes, with another first byte."""

    def __init__(self, reader: Any) -> None:
        self.reader = reader
        self.content_length = reader.content_length
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
    """Passes everything on to a real pool; `before` and `after` happen around the first run of the one statement."""

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


class Gate:
    """A hook that stops whoever comes until it is opened, and says that somebody came."""

    def __init__(self) -> None:
        self.reached = asyncio.Event()
        self.opened = asyncio.Event()

    async def __call__(self) -> None:
        self.reached.set()
        await self.opened.wait()
