"""Complete listings of a bucket, in pages and in the order of keys."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from typing import Final
from uuid import UUID

from service.marker import MARKER_KEY
from service.object_store import Bucket
from service.object_store.objects import ListedObject

PAGE: Final = 1_000

Page = list[ListedObject]


class WrongListing(Exception):
    """A listing of the store that is not in the order of keys. Nothing can be concluded from it."""


async def list_pages(bucket: Bucket) -> AsyncGenerator[Page, None]:
    """Yield the objects in pages, without the marker. Raises StoreError and WrongListing."""
    page: Page = []
    previous = ""
    async for listed in bucket.list_keys():
        if listed.key <= previous:
            raise WrongListing(
                f"the store listed {listed.key!r} after {previous!r}, which is not in order"
            )
        previous = listed.key
        if listed.key == MARKER_KEY:
            continue
        page.append(listed)
        if len(page) == PAGE:
            yield page
            page = []
    if page:
        yield page


async def list_pages_ahead(bucket: Bucket) -> AsyncGenerator[Page, None]:
    """Yield the same pages. The next one is requested while the caller works with the last."""
    async with aclosing(list_pages(bucket)) as pages:
        following = asyncio.create_task(take_page(pages))
        try:
            while (page := await following) is not None:
                following = asyncio.create_task(take_page(pages))
                yield page
        finally:
            following.cancel()
            await asyncio.gather(following, return_exceptions=True)


async def take_page(pages: AsyncIterator[Page]) -> Page | None:
    """Return the next page, or None after the last."""
    return await anext(pages, None)


def read_key(text: str) -> UUID | None:
    """Return the key, if it is a UUID as Assay writes it."""
    try:
        key = UUID(text)
    except ValueError:
        return None
    return key if str(key) == text else None
