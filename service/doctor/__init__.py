"""The doctor: proves a deployment from where it runs, by doing what a client, a worker or an intruder would do.

Whatever it makes it removes again: probe objects by itself, the one probe file through the delete that every file has.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Final

import asyncpg

from service import database as postgres
from service.doctor import clocks, database, enforcement, events, identities, store
from service.doctor.finding import Finding, failed
from service.object_store import StoreError
from service.resources import Resources

__all__ = ["Finding", "examine"]

Check = Callable[[Resources], Awaitable[Sequence[Finding]]]

# A check is skipped when one that it rests on has failed: its findings would only repeat that one's.
CHECKS: Final[tuple[tuple[str, Check, tuple[str, ...]], ...]] = (
    ("database", database.check_database, ()),
    ("listen", database.check_listen, ("database",)),
    ("endpoints", store.check_endpoints, ()),
    ("key ids", identities.check_key_ids, ()),
    ("service identity", identities.check_service_identity, ("endpoints",)),
    ("signer", identities.check_signer, ("endpoints", "service identity")),
    ("clocks", clocks.check_clocks, ("database", "endpoints")),
    ("presigned", enforcement.check_enforcement, ("endpoints", "service identity", "signer")),
    ("events", events.check_events, ("database", "endpoints", "service identity", "signer")),
    ("announcements", events.check_announcements, ("database",)),
)


async def examine(resources: Resources) -> AsyncIterator[Finding]:
    """Every check in its order; a check that cannot be done is a finding too."""
    unwell: set[str] = set()
    for name, check, rests_on in CHECKS:
        if unwell.intersection(rests_on):
            continue
        for finding in await run_check(resources, name, check=check):
            if finding.status == "failed":
                unwell.add(name)
            yield finding


async def run_check(resources: Resources, name: str, *, check: Check) -> Sequence[Finding]:
    try:
        return await check(resources)
    except StoreError as error:
        return [failed(name, str(error), "see whether the store runs, and ASSAY_S3_ENDPOINT and the identities' keys")]
    except (asyncpg.PostgresError, *postgres.UNREACHABLE) as error:
        what = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
        return [failed(name, what, "see whether the database runs, and ASSAY_DATABASE_URL and …_LISTEN_URL")]
