"""The scrub of incoming. The protocol is in the docstring of the package."""

from collections.abc import AsyncGenerator
from contextlib import aclosing
from datetime import timedelta

import msgspec

from service.operations.listing import Page, list_pages_ahead
from service.operations.orphans.found import Found, Verdict, check_guard, disagree, find_grace
from service.queries import orphans as queries
from service.resources import WorkerResources


async def scrub_incoming(
    resources: WorkerResources, *, delete: bool
) -> AsyncGenerator[Found, None]:
    after = ""
    async with aclosing(list_pages_ahead(resources.incoming)) as pages:
        async for page in pages:
            counter = await check_guard(resources)
            orphans = await find_orphans(resources, page, after=after)
            if delete:
                orphans = await doom(resources, orphans, counter)
            for found in orphans:
                yield found
            after = find_last(page, after)
    await queries.forget_incoming_orphans(resources.pool, after=after)


async def find_orphans(resources: WorkerResources, page: Page, *, after: str) -> list[Found]:
    """Steps 3 and 4 of the protocol: return the objects of the page that no row names."""
    keys = [listed.key for listed in page if is_text(listed.key)]
    ages = await queries.note_incoming_orphans(
        resources.pool, keys, after=after, last=find_last(page, after)
    )
    grace, bucket = find_grace(resources.settings), resources.incoming.name
    found: list[Found] = []
    for listed in page:
        if not is_text(listed.key):
            found.append(Found(bucket, listed.key, listed.size, timedelta(0), "foreign"))
        elif (age := ages.get(listed.key)) is not None:
            verdict: Verdict = "deletable" if age >= grace else "young"
            found.append(Found(bucket, listed.key, listed.size, age, verdict))
    return found


async def doom(resources: WorkerResources, orphans: list[Found], counter: int) -> list[Found]:
    """Step 6 of the protocol: doom the deletable keys. Raises CannotScrub."""
    keys = [found.key for found in orphans if found.verdict == "deletable"]
    if not keys:
        return orphans
    doomed = await queries.doom_incoming_keys(
        resources.pool, keys, grace=find_grace(resources.settings), counter=counter
    )
    if doomed is None:
        raise disagree()
    return [
        found
        if found.verdict != "deletable"
        else msgspec.structs.replace(found, verdict="doomed" if found.key in doomed else "kept")
        for found in orphans
    ]


def find_last(page: Page, before: str) -> str:
    """Return the last key of the page that PostgreSQL can store, or `before` if there is none."""
    return next((one.key for one in reversed(page) if is_text(one.key)), before)


def is_text(key: str) -> bool:
    """Return whether PostgreSQL can store the key."""
    return "\0" not in key
