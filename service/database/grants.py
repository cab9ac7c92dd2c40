"""Grants of API keys, which a process remembers for some seconds.

1. If the process remembers the key's grant, return it. It counts until its end, and only if the
   process has been listening since the grant was read, without a notification about the keys.
2. Otherwise, note the number of notifications, and then read the row.
   - There is no live key with this digest: return None. Nothing is remembered.
3. Remember the grant with that number. Its end is REMEMBERED_SECONDS after the statement was sent,
   or the end of the key if that comes first.
   - A key was changed after the statement had read its row: the notification comes after the
     commit, so the number is larger by then, or will be. In both cases step 1 does not return the
     grant.

A trigger notifies every process when keys are updated or deleted, by a command or by plain SQL. A
revocation therefore takes effect within milliseconds. If the notification is lost without the loss
of its connection, the revocation takes effect after REMEMBERED_SECONDS. No grant counts while there
is no connection, and a new connection counts as a notification, because others may have been lost
in between.
"""

from typing import Final, NamedTuple

import asyncpg

from service import clock
from service.database.notifications import Notifications
from service.model import Sha256
from service.queries import keys
from service.queries.keys import Grant

REMEMBERED_SECONDS: Final = 5.0
MOST_REMEMBERED: Final = 10_000


class Remembered(NamedTuple):
    """A grant, the number of notifications before it was read, and its end by `clock`."""

    grant: Grant
    changes: int
    end: float


class Grants:
    """The grants of a process. They may be read from any coroutine of its event loop."""

    def __init__(self, pool: asyncpg.Pool, notifications: Notifications) -> None:
        self.pool = pool
        self.notifications = notifications
        self.remembered: dict[bytes, Remembered] = {}

    async def find(self, secret: Sha256) -> Grant | None:
        """Run the protocol above, and return the grant of the key with this digest.

        Return None if the key is unknown, expired or revoked.
        """
        known = self.remembered.get(secret.digest)
        if known is not None and self.is_current(known):
            return known.grant
        changes, asked_at = self.notifications.key_changes, clock.read_seconds()
        grant = await keys.find_grant(self.pool, secret)
        if grant is None:
            self.remembered.pop(secret.digest, None)
            return None
        life = REMEMBERED_SECONDS
        if grant.remaining is not None:
            life = min(life, grant.remaining.total_seconds())
        self.remember(secret, Remembered(grant, changes, asked_at + life))
        return grant

    def is_current(self, known: Remembered) -> bool:
        return (
            self.notifications.connected
            and known.changes == self.notifications.key_changes
            and clock.read_seconds() < known.end
        )

    def remember(self, secret: Sha256, new: Remembered) -> None:
        if len(self.remembered) >= MOST_REMEMBERED:
            self.remembered.clear()
        self.remembered[secret.digest] = new
