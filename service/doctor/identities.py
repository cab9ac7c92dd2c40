"""Both identities: each may do exactly what it should, and nobody can guess their key ids."""

import re
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Final

from service.doctor.finding import Finding, failed, ok
from service.object_store import Bucket, ObjectStore, StoreError, StoreUnavailable
from service.resources import Resources

BODY: Final = b"assay doctor"
SHORTEST_KEY_ID: Final = 12
FEWEST_CHARACTERS: Final = 6
WORDS: Final = re.compile(r"(?i)minio|admin|assay|root|user|test|service|signer|access|secret|password|example|akia|12345|changeme")
BOOTSTRAP: Final = "run `assay bootstrap`: it mends the identities' policies"


async def check_key_ids(resources: Resources) -> list[Finding]:
    """On a MinIO without its fixes the id alone is enough to write whatever that identity may write."""
    key_id = resources.settings.s3_access_key
    advice = "make a new service identity whose key id is random (`assay env` makes some), run `assay bootstrap`, remove the old one"
    if is_guessable(key_id):
        return [failed("key id of the service identity", "it can be guessed", advice)]
    if key_id == resources.settings.s3_signer_access_key:
        return [failed("key id of the service identity", "it is the signer's, which every upload URL shows", advice)]
    return [ok("key id of the service identity", "it cannot be guessed")]


def is_guessable(key_id: str) -> bool:
    """Short, of few characters, or mostly a word that many would choose."""
    rest = WORDS.sub("", key_id)
    return len(rest) < SHORTEST_KEY_ID or len(set(rest)) < FEWEST_CHARACTERS


async def check_service_identity(resources: Resources) -> list[Finding]:
    """Everything that a worker does, in both buckets, and a copy from the one to the other."""
    try:
        for bucket in (resources.incoming, resources.vault):
            await use_bucket(bucket)
    except StoreError as error:
        return [failed("service identity", f"it may not do all that it must: {error}", BOOTSTRAP)]
    return [ok("service identity", "it puts, reads, lists, assembles and deletes in both buckets")]


async def use_bucket(bucket: Bucket) -> None:
    async with probe_object(bucket) as key:
        await bucket.head(key)
        async for _ in bucket.list_keys(key):
            break
        upload_id = await bucket.create_upload(key, content_type="text/plain", metadata={}, tags={})
        try:
            await bucket.list_parts(key, upload_id)
        finally:
            await bucket.abort_upload(key, upload_id)


@asynccontextmanager
async def probe_object(bucket: Bucket) -> AsyncIterator[str]:
    """An object of ours under a fresh key, gone again afterwards."""
    key = f"assay-doctor-{secrets.token_hex(8)}"
    await bucket.put(key, BODY, content_type="text/plain", metadata={}, tags={}, timeout_seconds=10)
    try:
        yield key
    finally:
        await bucket.delete(key)


async def check_signer(resources: Resources) -> list[Finding]:
    """It may put to incoming, and nothing else: whoever has an upload URL may be able to use the rest."""
    settings = resources.settings
    store = ObjectStore(
        settings.s3_endpoint, access_key=settings.s3_signer_access_key, secret_key=settings.s3_signer_secret_key, region=settings.s3_region
    )
    incoming, vault = store.bucket(settings.incoming_bucket), store.bucket(settings.vault_bucket)
    try:
        async with probe_object(resources.incoming) as key, probe_object(resources.vault) as vault_key:
            if not await is_allowed(lambda: put(incoming, key)):
                return [failed("signer", "it may not put to incoming: every upload would be refused", BOOTSTRAP)]
            forbidden = {
                "read incoming": lambda: incoming.head(key),
                "list incoming": lambda: take_first(incoming),
                "delete in incoming": lambda: incoming.delete(key),
                "read the vault": lambda: vault.head(vault_key),
                "write to the vault": lambda: put(vault, vault_key),
            }
            return [judge_signer([name for name, attempt in forbidden.items() if await is_allowed(attempt)])]
    finally:
        store.close()


def judge_signer(too_much: list[str]) -> Finding:
    if too_much:
        return failed("signer", f"it may also {', '.join(too_much)}", BOOTSTRAP)
    return ok("signer", "it may put to incoming and nothing else")


async def is_allowed(attempt: Callable[[], Awaitable[object]]) -> bool:
    """Raises StoreError for anything but a yes or a no."""
    try:
        await attempt()
    except StoreUnavailable as error:
        if error.status == 403:
            return False
        raise
    return True


async def put(bucket: Bucket, key: str) -> None:
    await bucket.put(key, BODY, content_type="text/plain", metadata={}, tags={}, timeout_seconds=10)


async def take_first(bucket: Bucket) -> None:
    async for _ in bucket.list_keys():
        return
