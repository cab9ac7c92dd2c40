"""The pool of connections to PostgreSQL, and its codecs.

A connection is closed when the driver raises an error on it, because the state of its protocol is
then unknown. The pool opens a new connection for the next statement. A connection stays open only
after an error that the server returned for a statement, and after a time-out.
"""

import asyncio
from collections.abc import Awaitable
from typing import Any, Final, TypeVar

import asyncpg
import msgspec

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
ATTEMPT_SECONDS: Final = 60.0
"""The time limit of an attempt to connect. It is longer than any name resolution takes."""
FATAL: Final = frozenset({"FATAL", "PANIC"})

T = TypeVar("T")


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
    """A pool that no caller waits for longer than ACQUIRE_SECONDS.

    While the database does not answer, each connection is busy until the time-out of its statement.
    Without the limit, a queue of requests would wait for many times that.
    """

    def acquire(self, *, timeout: float | None = None) -> Any:
        return super().acquire(timeout=ACQUIRE_SECONDS if timeout is None else timeout)


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
