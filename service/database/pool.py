"""The pool of connections to PostgreSQL, and its codecs.

What the driver raises costs the connection that raised it, because the state of its protocol is not
known any more. The pool makes a new one for the next statement. Only an answer of the server to a
statement leaves the connection as it is.
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
    asyncpg.InvalidAuthorizationSpecificationError,  # a password that was changed: somebody will mend it
    asyncpg.InvalidCatalogNameError,
    asyncpg.OperatorInterventionError,  # starting, stopping, cancelled
    asyncpg.InsufficientResourcesError,  # connections, disk, memory
    asyncpg.ReadOnlySQLTransactionError,  # a standby answers until the new primary has the name
)
"""What asyncpg raises when the database is away or cannot serve, and not when a statement is wrong."""


CONNECT_SECONDS: Final = 5.0
ATTEMPT_SECONDS: Final = 60.0
"""Longer than any resolver takes, so that no attempt is cut in the middle of a name resolution."""
FATAL: Final = frozenset({"FATAL", "PANIC"})

T = TypeVar("T")


class Connection(asyncpg.Connection):  # type: ignore[misc]  # asyncpg ships no types
    """A connection that ends with the first error that is not the answer to a statement.

    The server ends a session with a FATAL error. Where no statement is under way, asyncpg takes it for
    an unexpected message and does not close the connection: until the end of the stream arrives, each
    further statement raises InternalClientError.
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
        """Return the answer. Every error but two kinds closes the connection.

        After an error of the statement, the session goes on. After a time-out, asyncpg has the server
        cancel the statement, and waits for that before it uses the connection again.
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


async def connect(*args: Any, **options: Any) -> Connection:
    """Connect as `asyncpg.connect` does, within CONNECT_SECONDS.

    Raises what asyncpg raises, and TimeoutError. When the time is over or the caller is cancelled, the
    attempt goes on by itself and its result is dropped: uvloop cannot cancel a name resolution, and the
    error of one that is left alone is never retrieved.
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
    """Close the connection of an attempt that has ended too late."""
    if not attempt.cancelled() and attempt.exception() is None:
        attempt.result().terminate()


async def open_pool(settings: DatabaseSettings) -> asyncpg.Pool:
    """A pool that connects when it is first used, so that a process starts while the database is away.

    No statement of ours changes a session, so connections go back without a reset query.
    """
    return await asyncpg.create_pool(
        settings.database_url,
        min_size=0,
        max_size=settings.database_pool_size,
        statement_cache_size=settings.database_statement_cache,
        connect=connect,
        connection_class=Connection,
        command_timeout=5,  # no transaction of ours takes as long
        init=set_codecs,
        reset=do_nothing,
    )


async def set_codecs(connection: asyncpg.Connection) -> None:
    """jsonb as Python values."""
    await connection.set_type_codec(
        "jsonb", schema="pg_catalog", encoder=encode_json, decoder=msgspec.json.decode
    )


def encode_json(value: Any) -> str:
    return msgspec.json.encode(value).decode()


async def do_nothing(_: asyncpg.Connection) -> None:
    """In place of asyncpg's reset query."""
