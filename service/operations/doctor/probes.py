"""Probe objects and URLs of the doctor.

Their keys are unique, and the objects are removed even if the check fails.
"""

import hashlib
import secrets
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Final, Literal

import msgspec

from service.object_store import Bucket, ObjectMissing, StoreError
from service.object_store.presign import PresignedPut, Signer
from service.operations.doctor.anonymous_requests import Answer, send
from service.queries.files import ask_time
from service.resources import Resources, make_signer
from service.settings import Settings

BODY: Final = b"assay doctor"
TYPE: Final = "text/plain"
SECONDS: Final = 10.0
URL_SECONDS: Final = 300
PROBE_PREFIX: Final = "assay-doctor-"

Binding = Literal["all", "length", "nothing"]
"""What a URL is bound to besides its key: everything (length, type, digest and `If-None-Match`),
the length alone, or nothing.
"""


def new_key() -> str:
    return f"{PROBE_PREFIX}{secrets.token_hex(8)}"


@asynccontextmanager
async def emptied(bucket: Bucket, *keys: str) -> AsyncIterator[None]:
    """Delete all objects under these keys after the block, including one whose PUT was not
    answered.
    """
    try:
        yield
    except BaseException:
        with suppress(StoreError):  # the first error is the more useful one
            await delete(bucket, keys)
        raise
    await delete(bucket, keys)


async def delete(bucket: Bucket, keys: tuple[str, ...]) -> None:
    for key in keys:
        await bucket.delete(key)


@asynccontextmanager
async def probe_object(bucket: Bucket) -> AsyncIterator[str]:
    key = new_key()
    async with emptied(bucket, key):
        await put(bucket, key)
        yield key


async def put(bucket: Bucket, key: str) -> None:
    await bucket.put(key, BODY, content_type=TYPE, metadata={}, tags={}, timeout_seconds=SECONDS)


class Url(msgspec.Struct, frozen=True):
    """An upload URL as clients get it, for a key that is used only once."""

    resources: Resources
    key: str
    put: PresignedPut

    async def send(
        self,
        body: bytes,
        headers: Mapping[str, str] | None = None,
        *,
        url: str | None = None,
        more: Sequence[tuple[str, str]] = (),
    ) -> Answer:
        """Send a PUT.

        `headers` replace the upload's own, and `more` follow them, with repeated names if needed.
        """
        own = {**self.put.headers, **(headers or {})}
        return await send("PUT", url or self.put.url, body=body, headers=own, more=more)

    async def is_stored(self, key: str | None = None) -> bool:
        try:
            await self.resources.incoming.head(key or self.key)
        except ObjectMissing:
            return False
        return True


@asynccontextmanager
async def upload_url(
    resources: Resources, body: bytes, *, binding: Binding = "all", signer: Signer | None = None
) -> AsyncIterator[Url]:
    """Yield a URL for this body. Without `signer`, it names the endpoint that the service uses."""
    key = new_key()
    put = (signer or internal_signer(resources.settings)).presign_put(
        resources.settings.incoming_bucket,
        key,
        size=None if binding == "nothing" else len(body),
        content_type=TYPE if binding == "all" else None,
        sha256=hashlib.sha256(body).hexdigest() if binding == "all" else None,
        if_none_match=binding == "all",
        issued_at=await ask_time(resources.pool),
        expires_in_seconds=URL_SECONDS,
    )
    async with emptied(resources.incoming, key):
        yield Url(resources, key, put)


def internal_signer(settings: Settings) -> Signer:
    """Return a signer for the service's own endpoint, without a proxy, because clients' endpoint
    may be unreachable from here.
    """
    return make_signer(msgspec.structs.replace(settings, s3_public_endpoint=None))
