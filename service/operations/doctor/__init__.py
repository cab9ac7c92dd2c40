"""The doctor, which tests a deployment by acting as a client, a worker and an intruder.

It removes everything that it creates: probe objects directly, and the probe file by the deletion of
files.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Final

import asyncpg

from service import database as postgres
from service.object_store import StoreError
from service.operations.doctor import (
    absent_headers,
    clocks,
    cors,
    database,
    events,
    identities,
    marker,
    scrub,
    store,
    unsigned_headers,
    url_conditions,
    versions,
)
from service.operations.doctor.finding import Finding, failed
from service.resources import Resources

__all__ = ["Finding", "examine"]

Check = Callable[[Resources], Awaitable[Sequence[Finding]]]

# A check is skipped if a check that it depends on has failed or was skipped, because its findings
# would only repeat the first failure.
CHECKS: Final[tuple[tuple[str, Check, tuple[str, ...]], ...]] = (
    ("database", database.check_database, ()),
    ("listen", database.check_listen, ("database",)),
    ("endpoint", store.check_endpoint, ()),
    ("clocks", clocks.check_clocks, ("database", "endpoint")),
    ("key ids", identities.check_key_ids, ()),
    ("service identity", identities.check_service_identity, ("endpoint",)),
    ("service identity: rights", identities.check_service_rights, ("service identity",)),
    ("marker", marker.check_marker, ("database", "service identity: rights")),
    ("scrub", scrub.check_scrub, ("database",)),
    ("versions", versions.check_versions, ("service identity",)),
    ("signer", identities.check_signer, ("service identity",)),
    ("reader", identities.check_reader, ("service identity",)),
    ("upload URL", store.check_upload_url, ("database", "signer")),
    ("public endpoint", store.check_public_endpoint, ("upload URL",)),
    ("CORS", cors.check_cors, ("upload URL", "public endpoint")),
    ("binding", absent_headers.check_binding, ("upload URL",)),
    ("presigned", url_conditions.check_enforcement, ("upload URL",)),
    ("unsigned headers", unsigned_headers.check_unsigned_headers, ("upload URL",)),
    ("event rule", events.check_event_rule, ("service identity",)),
    ("events", events.check_events, ("upload URL",)),
    ("announcements", events.check_announcements, ("database",)),
)


async def examine(resources: Resources) -> AsyncIterator[Finding]:
    """Yield the findings of every check in order.

    A check that cannot be executed is a failed finding.
    """
    unwell: set[str] = set()
    for name, check, rests_on in CHECKS:
        if unwell.intersection(rests_on):
            unwell.add(name)
            continue
        for finding in await run_check(resources, name, check=check):
            if finding.status == "failed":
                unwell.add(name)
            yield finding


async def run_check(resources: Resources, name: str, *, check: Check) -> Sequence[Finding]:
    try:
        return await check(resources)
    except StoreError as error:
        return [
            failed(
                name,
                str(error),
                "check that the store runs, and check ASSAY_S3_ENDPOINT and the identities' keys",
            )
        ]
    except (asyncpg.PostgresError, *postgres.UNREACHABLE) as error:
        what, *_ = str(error).splitlines() or [""]
        return [
            failed(name, f"{type(error).__name__}: {what}".removesuffix(": "), advise_on(error))
        ]


def advise_on(error: BaseException) -> str:
    if isinstance(
        error, asyncpg.InvalidSQLStatementNameError | asyncpg.DuplicatePreparedStatementError
    ):
        return (
            "set ASSAY_DATABASE_STATEMENT_CACHE=0,"
            " because a pooler in transaction mode loses prepared statements"
        )
    return "check that the database runs, and check ASSAY_DATABASE_URL and …_LISTEN_URL"
