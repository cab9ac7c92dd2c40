"""The scrub of the vault. The protocol is in the docstring of the package."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing, suppress
from datetime import datetime
from typing import Final
from uuid import UUID

import msgspec

from service.marker.document import MarkerUnreadable, read_document
from service.object_store import Bucket, ObjectMissing, StoreError
from service.operations.listing import Page, list_pages_ahead, read_key
from service.operations.orphans.found import Found, Verdict, check_guard, disagree, find_grace
from service.queries import orphans as queries
from service.queries.files import ask_time
from service.queries.reconciling import find_named_keys
from service.resources import WorkerResources

AT_ONCE: Final = 8
"""The number of HEAD requests that are sent at once."""

Look = UUID | Verdict | None
"""The file of an old object of Assay, what else was found, or None if there is no object."""


async def scrub_vault(resources: WorkerResources, *, delete: bool) -> AsyncGenerator[Found, None]:
    now = await ask_time(resources.pool)
    async with aclosing(list_pages_ahead(resources.vault)) as pages:
        async for page in pages:
            counter = await check_guard(resources)
            orphans = await find_orphans(resources, page, now)
            if delete:
                orphans = await doom(resources, orphans, now, counter=counter)
            for found in orphans:
                yield found


async def find_orphans(resources: WorkerResources, page: Page, now: datetime) -> list[Found]:
    """Steps 3 and 4 of the protocol: return the objects of the page that no row names."""
    keys = {key: listed.key for listed in page if (key := read_key(listed.key)) is not None}
    named = {keys[key] for key in await find_named_keys(resources.pool, [*keys])}
    grace, ours = find_grace(resources.settings), set(keys.values())
    found = []
    for listed in page:
        if listed.key in named:
            continue
        age = now - listed.last_modified
        verdict: Verdict = "deletable" if age >= grace else "young"
        if listed.key not in ours:
            verdict = "foreign"
        found.append(Found(resources.vault.name, listed.key, listed.size, age, verdict))
    return found


async def doom(
    resources: WorkerResources, orphans: list[Found], now: datetime, *, counter: int
) -> list[Found]:
    """Steps 5 and 6 of the protocol: doom the deletable keys. Raises StoreError and CannotScrub.

    The objects that do not exist are left out of the result.
    """
    keys = [found.key for found in orphans if found.verdict == "deletable"]
    if not keys:
        return orphans
    looks = await look_at_all(resources, keys, now - find_grace(resources.settings))
    file_ids = {UUID(key): look for key, look in looks.items() if isinstance(look, UUID)}
    doomed = await queries.doom_vault_keys(resources.pool, file_ids, counter=counter)
    if doomed is None:
        raise disagree()
    for key in file_ids:
        looks[str(key)] = "doomed" if key in doomed else "kept"
    return [
        msgspec.structs.replace(found, verdict=look)
        for found in orphans
        if isinstance(look := looks.get(found.key, found.verdict), str)
    ]


async def look_at_all(
    resources: WorkerResources, keys: list[str], before: datetime
) -> dict[str, Look]:
    """Look at the objects, several at once. Raises the first StoreError."""
    looks: dict[str, Look] = {}
    errors: list[StoreError] = []
    waiting = iter(keys)

    async def look_one_by_one() -> None:
        for key in waiting:
            if errors:
                return
            try:
                looks[key] = await look_at(resources.vault, key, before)
            except StoreError as error:
                errors.append(error)

    await asyncio.gather(*(look_one_by_one() for _ in range(AT_ONCE)))
    if errors:
        raise errors[0]
    return looks


async def look_at(vault: Bucket, key: str, before: datetime) -> Look:
    """Step 5 of the protocol: ask for the object's date and metadata. Raises StoreError."""
    try:
        seen = await vault.head(key)
    except ObjectMissing:
        return None
    except StoreError:
        with suppress(MarkerUnreadable):
            await read_document(vault)
        return "unreadable"
    file_id = read_key(seen.metadata.get("assay-file-id", ""))
    if file_id is None:
        return "foreign"
    if seen.last_modified is None or seen.last_modified > before:
        return "young"
    return file_id
