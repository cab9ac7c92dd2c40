"""Statements on the marker's row (service/marker/__init__.py)."""

from typing import Final
from uuid import UUID

import msgspec

from service.queries.rows import Database, read_row

RAISE_EVERY: Final = "55 seconds"


class MarkerRow(msgspec.Struct, frozen=True):
    """The marker as the database has it.

    `identity` is that of the database when the row was written, and `found` is its identity now.
    `is_due` is true if the last raise was about a minute ago.
    """

    deployment: UUID
    counter: int
    identity: str
    found: str
    is_due: bool


READ: Final = f"""
    SELECT deployment, counter, identity, database_identity() AS found,
           coalesce(raised_at < now() - interval '{RAISE_EVERY}', true) AS is_due
    FROM vault_marker
"""


async def read_marker(database: Database) -> MarkerRow:
    return read_row(await database.fetchrow(READ), MarkerRow)


RAISE: Final = """
    UPDATE vault_marker SET counter = counter + 1, raised_at = now()
    WHERE counter = $1 AND identity = database_identity() RETURNING counter
"""


async def raise_marker(database: Database, counter: int) -> int | None:
    """Raise the counter by one and return it. Return None if it was not `counter`."""
    raised: int | None = await database.fetchval(RAISE, counter)
    return raised


SET: Final = """
    UPDATE vault_marker
    SET counter = greatest(counter, $1) + 1, identity = database_identity(), raised_at = now()
    RETURNING counter
"""


async def set_marker(database: Database, counter: int) -> int:
    """Make the row that of this database, above `counter`, and return the new counter."""
    raised: int = await database.fetchval(SET, counter)
    return raised
