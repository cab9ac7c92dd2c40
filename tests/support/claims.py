"""Claims of due files, as a worker makes them."""

from collections.abc import Set
from datetime import timedelta
from typing import Final

from service.model import Claim, Work
from service.queries import claims
from service.queries.rows import Database

UP_TO_1_GIB: Final = frozenset({Work.LOOK, Work.SMALL, Work.MEDIUM})
EVERY_KIND: Final = frozenset(Work)


async def claim_files(
    database: Database, slots: int, *, lease: timedelta, kinds: Set[Work] = UP_TO_1_GIB
) -> list[Claim]:
    """Claim up to `slots` due files in all, with these kinds of work, for whichever owner."""
    claimed: list[Claim] = []
    for due in await claims.find_work(database, dict.fromkeys(kinds, "")):
        if due.is_due:
            held = dict.fromkeys(due.owners, 0)
            claimed += await claims.claim_files(
                database, due.work, slots - len(claimed), held=held, lease=lease, counter=0
            )
    return claimed
