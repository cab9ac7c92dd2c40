"""The pool of connections to PostgreSQL, and its codecs.

A connection is closed when the driver raises an error on it, because the state of its protocol is
then unknown. The pool opens a new connection for the next statement. A connection stays open only
after an error that the server returned for a statement, and after a time-out.
"""

import asyncio
from collections.abc import Awaitable, Generator
from typing import Any, Final, TypeVar

import asyncpg
import msgspec
import structlog

from service.settings import DatabaseSettings

UNREACHABLE: Final = (
    OSError,
    TimeoutError,
    asyncpg.PostgresConnectionError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,  # an unexpected message, such as the end of an idle session
    asyncpg.InvalidAuthorizationSpecificationError,  # a changed password, until it is corrected
    asyncpg.InvalidCatalogNameError,
    asyncpg.OperatorInterventionError,  # the server is starting or stopping, or cancelled the query
    asyncpg.InsufficientResourcesError,  # connections, disk, memory
    asyncpg.ReadOnlySQLTransactionError,  # a standby, until the name refers to the new primary
)
"""The errors that show that the database is unavailable, and not that a statement is wrong."""

CONNECT_SECONDS: Final = 5.0
ACQUIRE_SECONDS: Final = 6.0
SPARE_SECONDS: Final = 1.0
ATTEMPT_SECONDS: Final = 60.0
"""The time limit of an attempt to connect. It is longer than any name resolution takes."""
FATAL: Final = frozenset({"FATAL", "PANIC"})

T = TypeVar("T")
log = structlog.get_logger()


class Connection(asyncpg.Connection):  # type: ignore[misc]  # asyncpg ships no types
    """A connection that is closed after the first error that is not the response to a statement.

    The server ends a session with a FATAL error. If no statement is running, asyncpg treats it as
    an unexpected message and does not close the connection. Each further statement then raises
    InternalClientError until the end of the stream arrives.
    """

    async def fetch(self, *args: Any, **options: Any) -> Any:
        return await self._end_on_failure(super().fetch(*args, **options))

    async def fetchrow(self, *args: Any, **options: Any) -> Any:
        return await self._end_on_failure(super().fetchrow(*args, **options))

    async def fetchval(self, *args: Any, **options: Any) -> Any:
        return await self._end_on_failure(super().fetchval(*args, **options))

    async def execute(self, *args: Any, **options: Any) -> Any:
        return await self._end_on_failure(super().execute(*args, **options))

    async def _end_on_failure(self, answer: Awaitable[T]) -> T:
        """Return the response. Close the connection after any error but two kinds.

        After an error of the statement, the session continues. After a time-out, asyncpg has the
        server cancel the statement, and waits for that before it uses the connection again.
        """
        try:
            return await answer
        except TimeoutError:
            raise
        except asyncpg.PostgresError as error:
            if error.severity_en in FATAL:
                self.terminate()
            raise
        except Exception:
            self.terminate()
            raise


class Pool(asyncpg.Pool):  # type: ignore[misc]  # as above
    """A pool that no caller waits for longer than ACQUIRE_SECONDS, and that keeps spare connections
    for single statements.

    While the database does not answer, each connection is busy until the time-out of its statement.
    Without the limit, a queue of requests would wait for many times that.

    asyncpg creates a task when it lends a connection and another one when it gets it back, which
    costs more than most statements do. `fetch`, `fetchrow`, `fetchval` and `execute` therefore keep
    the connection after a statement that succeeded, for the next one. A spare connection is given
    back if another caller waits for one, or after SPARE_SECONDS.
    """

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._spare: list[Any] = []
        self._waiting = 0
        self._giving_back: set[asyncio.Task[None]] = set()
        self._timer: asyncio.TimerHandle | None = None

    def acquire(self, *, timeout: float | None = None) -> "Borrowing":
        return Borrowing(self, ACQUIRE_SECONDS if timeout is None else timeout)

    async def borrow(self, timeout: float) -> Any:
        """Return a connection, which the caller releases."""
        while self._spare:
            connection = self._spare.pop()
            if is_open(connection):
                return connection
            self._give_back(connection)
        self._waiting += 1
        try:
            return await super().acquire(timeout=timeout)
        finally:
            self._waiting -= 1

    async def fetch(self, *args: Any, **options: Any) -> Any:
        return await self._run("fetch", args, options)

    async def fetchrow(self, *args: Any, **options: Any) -> Any:
        return await self._run("fetchrow", args, options)

    async def fetchval(self, *args: Any, **options: Any) -> Any:
        return await self._run("fetchval", args, options)

    async def execute(self, *args: Any, **options: Any) -> Any:
        return await self._run("execute", args, options)

    async def close(self) -> None:
        self._give_back_spare()
        await asyncio.gather(*self._giving_back, return_exceptions=True)
        await super().close()

    async def _run(self, method: str, args: tuple[Any, ...], options: dict[str, Any]) -> Any:
        connection = await self.borrow(ACQUIRE_SECONDS)
        try:
            result = await getattr(connection, method)(*args, **options)
        except BaseException:  # the statement may still be running
            await self.release(connection)
            raise
        self._keep(connection)
        return result

    def _keep(self, connection: Any) -> None:
        if self._waiting or not is_open(connection) or self.is_closing():
            self._give_back(connection)
            return
        self._spare.append(connection)
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(
                SPARE_SECONDS, self._give_back_spare
            )

    def _give_back_spare(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        while self._spare:
            self._give_back(self._spare.pop())

    def _give_back(self, connection: Any) -> None:
        task = asyncio.ensure_future(self.release(connection))
        self._giving_back.add(task)
        task.add_done_callback(self._note_given_back)

    def _note_given_back(self, task: "asyncio.Task[None]") -> None:
        self._giving_back.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.warning("connection not given back", error=type(error).__name__)


def is_open(connection: Any) -> bool:
    """Return whether a borrowed connection can be used.

    asyncpg takes a lost connection back by itself. The borrowed object is then of no use.
    """
    try:
        return not connection.is_closed()
    except asyncpg.InterfaceError:
        return False


class Borrowing:
    """What `Pool.acquire` returns: an awaitable, or an asynchronous context manager."""

    def __init__(self, pool: Pool, timeout: float) -> None:
        self._pool = pool
        self._timeout = timeout
        self._connection: Any = None

    def __await__(self) -> Generator[Any, None, Any]:
        return self._pool.borrow(self._timeout).__await__()

    async def __aenter__(self) -> Any:
        self._connection = await self._pool.borrow(self._timeout)
        return self._connection

    async def __aexit__(self, *_: object) -> None:
        await self._pool.release(self._connection)


async def connect(*args: Any, **options: Any) -> Connection:
    """Connect as `asyncpg.connect` does, but wait for at most CONNECT_SECONDS.

    Raises the errors of asyncpg, and TimeoutError. If the time has passed or the caller is
    cancelled, the attempt continues in the background and its connection is closed. (uvloop cannot
    cancel a name resolution, and the error of an abandoned one would never be retrieved.)
    """
    chosen = {"connection_class": Connection, **options, "timeout": ATTEMPT_SECONDS}
    attempt = asyncio.ensure_future(asyncpg.connect(*args, **chosen))
    try:
        async with asyncio.timeout(CONNECT_SECONDS):
            return await asyncio.shield(attempt)
    except (TimeoutError, asyncio.CancelledError):
        attempt.add_done_callback(drop_connection)
        raise


async def close(connection: asyncpg.Connection) -> None:
    """End the session of a connection, and with it its advisory locks. Raises nothing."""
    try:
        await connection.close(timeout=2)
    except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError):
        connection.terminate()


def drop_connection(attempt: "asyncio.Future[Connection]") -> None:
    """Close the connection of an attempt that succeeded too late."""
    if not attempt.cancelled() and attempt.exception() is None:
        attempt.result().terminate()


async def open_pool(settings: DatabaseSettings) -> asyncpg.Pool:
    """Return a pool that connects when it is first used.

    A process can therefore start while the database is unavailable. No statement of Assay changes
    the state of a session, so connections are returned to the pool without a reset query.
    """
    pool: Pool = await Pool(
        settings.database_url,
        min_size=0,
        max_size=settings.database_pool_size,
        statement_cache_size=settings.database_statement_cache,
        connect=connect,
        connection_class=Connection,
        command_timeout=5,  # no transaction of Assay takes longer
        init=set_codecs,
        reset=do_nothing,
        # The remaining arguments have the values that asyncpg.create_pool gives them.
        record_class=asyncpg.Record,
        max_queries=50_000,
        max_inactive_connection_lifetime=300.0,
        loop=None,
    )
    return pool


async def set_codecs(connection: asyncpg.Connection) -> None:
    """Make the connection convert jsonb to Python values, and back."""
    await connection.set_type_codec(
        "jsonb", schema="pg_catalog", encoder=encode_json, decoder=msgspec.json.decode
    )


def encode_json(value: Any) -> str:
    return msgspec.json.encode(value).decode()


async def do_nothing(_: asyncpg.Connection) -> None:
    """Replace asyncpg's reset query."""
