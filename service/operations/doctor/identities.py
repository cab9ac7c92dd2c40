"""Both identities: each may do exactly what it should, and nobody can guess their key ids."""

import asyncio
import math
import re
from collections.abc import Awaitable, Callable
from itertools import pairwise
from typing import Final

from service.object_store import Bucket, ObjectStore, StoreError, StoreUnavailable
from service.operations.doctor.finding import Finding, failed, ok
from service.operations.doctor.probes import (
    BODY,
    PROBE_PREFIX,
    SECONDS,
    TYPE,
    emptied,
    new_key,
    probe_object,
    put,
)
from service.operations.doctor.rights import list_excess
from service.resources import Resources

SHORTEST_KEY_ID: Final = 16
FEWEST_CHARACTERS: Final = 6
FEWEST_CHANGES: Final = 2
WORDS: Final = re.compile(
    r"(?i)minio|admin|assay|root|user|test|service|signer|access|secret|password|example|akia|12345|changeme"
)
BOOTSTRAP: Final = "run `assay bootstrap`: it mends the identities' policies"
KEYS: Final = "see ASSAY_S3_ACCESS_KEY and …_SECRET_KEY; `assay bootstrap` makes the identity and mends its policy"


async def check_key_ids(resources: Resources) -> list[Finding]:
    """On a MinIO without its fixes the id alone is enough to write whatever that identity may write."""
    name, key_id = "key id of the service identity", resources.settings.s3_access_key
    advice = "make a new service identity whose key id is random (`assay env` makes some), run `assay bootstrap`, remove the old one"
    if not looks_random(key_id):
        return [
            failed(
                name,
                f"it does not look random: {SHORTEST_KEY_ID} or more letters and digits, well mixed, would",
                advice,
            )
        ]
    if key_id == resources.settings.s3_signer_access_key:
        return [failed(name, "it is the signer's, which every upload URL shows", advice)]
    return [ok(name, "it looks random")]


def looks_random(key_id: str) -> bool:
    """Beside the words that many would choose, one long piece in which letters and digits alternate: words in a row do not."""
    return any(is_mixed(piece) for piece in re.findall(r"[A-Za-z0-9]+", WORDS.sub("-", key_id)))


def is_mixed(piece: str) -> bool:
    changes = sum(a.isdigit() != b.isdigit() for a, b in pairwise(piece))
    return (
        len(piece) >= SHORTEST_KEY_ID
        and len(set(piece)) >= FEWEST_CHARACTERS
        and changes >= FEWEST_CHANGES
    )


async def check_service_identity(resources: Resources) -> list[Finding]:
    try:
        for bucket in (resources.incoming, resources.vault):
            await use_bucket(bucket)
        await copy_to_vault(resources)
    except StoreError as error:
        return [failed("service identity", f"it may not do all that it must: {error}", KEYS)]
    return [
        ok(
            "service identity",
            "it puts, reads, lists, assembles and deletes in both buckets, and copies into the vault",
        )
    ]


async def use_bucket(bucket: Bucket) -> None:
    """Everything that the API, a worker and the sweeper do in it."""
    async with probe_object(bucket) as key:
        etag = (await bucket.head(key)).etag
        await read_back(bucket, key, etag=etag)
        await take_first(bucket)
        upload_id = await bucket.create_upload(key, content_type=TYPE, metadata={}, tags={})
        try:
            part = await asyncio.to_thread(
                bucket.put_part, key, upload_id, 1, BODY, timeout_seconds=SECONDS
            )
            await bucket.list_parts(key, upload_id)
            await bucket.complete_upload(key, upload_id, [(1, part)])
        finally:
            await bucket.abort_upload(
                key, upload_id
            )  # one that is complete is gone, and the right is asked for first


async def copy_to_vault(resources: Resources) -> None:
    vault, vault_key = resources.vault, new_key()
    async with probe_object(resources.incoming) as key, emptied(vault, vault_key):
        etag = (await resources.incoming.head(key)).etag
        copy = await vault.copy_from(
            resources.incoming,
            key,
            etag=etag,
            key=vault_key,
            content_type=TYPE,
            metadata={},
            tags={"assay-doctor": "probe"},
            send_before=math.inf,
            timeout_seconds=SECONDS,
        )
        await read_back(vault, vault_key, etag=copy.etag)


async def read_back(bucket: Bucket, key: str, *, etag: str) -> None:
    def read() -> bytes:
        with bucket.open(key, etag=etag) as reader:
            return reader.read(len(BODY))

    if await asyncio.to_thread(read) != BODY:
        raise StoreUnavailable(f"/{bucket.name}: what is read is not what was put")


async def check_service_rights(resources: Resources) -> list[Finding]:
    """Root's keys would do all of the work as well."""
    name, settings = "service identity: rights", resources.settings
    too_much = await list_excess(
        settings, settings.s3_access_key, secret_key=settings.s3_secret_key
    )
    if too_much:
        return [
            failed(
                name,
                f"it may also {', '.join(too_much)}",
                f"{BOOTSTRAP}; root's keys are for `assay bootstrap` alone",
            )
        ]
    return [
        ok(
            name,
            "it may make, remove or reach no other bucket, change no policy or event rule, and not administer the store",
        )
    ]


async def check_signer(resources: Resources) -> list[Finding]:
    """It may put to incoming, and nothing else: whoever has an upload URL may be able to use the rest."""
    settings = resources.settings
    access_key, secret_key = settings.s3_signer_access_key, settings.s3_signer_secret_key
    store = ObjectStore(
        settings.s3_endpoint,
        access_key=access_key,
        secret_key=secret_key,
        region=settings.s3_region,
    )
    incoming, vault = store.bucket(settings.incoming_bucket), store.bucket(settings.vault_bucket)
    try:
        async with (
            probe_object(resources.incoming) as key,
            probe_object(resources.vault) as vault_key,
        ):
            if not await is_allowed(lambda: put(incoming, key)):
                return [
                    failed(
                        "signer",
                        "it may not put to incoming: every upload would be refused",
                        BOOTSTRAP,
                    )
                ]
            forbidden = {
                "read incoming": lambda: incoming.head(key),
                "list incoming": lambda: take_first(incoming),
                "delete in incoming": lambda: incoming.delete(key),
                "read the vault": lambda: vault.head(vault_key),
                "write to the vault": lambda: put(vault, vault_key),
            }
            too_much = [name for name, attempt in forbidden.items() if await is_allowed(attempt)]
            return [
                judge_signer(
                    too_much + await list_excess(settings, access_key, secret_key=secret_key)
                )
            ]
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


async def take_first(bucket: Bucket) -> None:
    """List a part of the bucket that holds no client's object: MinIO lists none beside one that a client made unreadable."""
    async for _ in bucket.list_keys(prefix=PROBE_PREFIX):
        return
