"""The run of the scrub of orphans over both buckets."""

from collections.abc import AsyncGenerator
from contextlib import aclosing

from service.operations.listing import WrongListing
from service.operations.orphans.found import CannotScrub, Found, check_guard
from service.operations.orphans.incoming import scrub_incoming
from service.operations.orphans.vault import scrub_vault
from service.resources import WorkerResources


async def scrub_orphans(resources: WorkerResources, *, delete: bool) -> AsyncGenerator[Found, None]:
    """Run the protocol of this package. Yield every object that no row names.

    With `delete`, doom those that are old enough. Raises CannotScrub, StoreError and the errors in
    database.UNREACHABLE.
    """
    await check_guard(resources)
    for scrub in (scrub_incoming, scrub_vault):
        try:
            async with aclosing(scrub(resources, delete=delete)) as orphans:
                async for found in orphans:
                    yield found
        except WrongListing as error:
            raise CannotScrub(str(error)) from error
