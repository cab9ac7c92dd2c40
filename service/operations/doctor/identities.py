"""Checks of the identities: each has exactly the rights that it needs, and a key id that cannot be
guessed.
"""

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
    r"(?i)minio|admin|assay|root|user|test|service|signer|access|secret|password|example|akia"
    r"|12345|changeme"
)
BOOTSTRAP: Final = "run `assay bootstrap`, which corrects the identities' policies"
KEYS: Final = (
    "check ASSAY_S3_ACCESS_KEY and …_SECRET_KEY;"
    " `assay bootstrap` creates the identity and corrects its policy"
)


async def check_key_ids(resources: Resources) -> list[Finding]:
    """Check the key id of the service identity.

    On an unpatched MinIO, it alone is enough to write.
    """
    name, key_id = "key id of the service identity", resources.settings.s3_access_key
    advice = (
        "choose a random key id for a new service identity (`assay env` generates one),"
        " run `assay bootstrap`, and remove the old identity"
    )
    if not looks_random(key_id):
        return [
            failed(
                name,
                f"it does not look random; it must have at least {SHORTEST_KEY_ID} mixed letters"
                " and digits",
                advice,
            )
        ]
    if key_id == resources.settings.s3_signer_access_key:
        return [failed(name, "it is the signer's, which every upload URL shows", advice)]
    return [ok(name, "it looks random")]


def looks_random(key_id: str) -> bool:
    """Return whether the id has a long piece, apart from common words, in which letters and digits
    alternate.
    """
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
        return [failed("service identity", f"it lacks a right that it needs: {error}", KEYS)]
    return [
        ok(
            "service identity",
            "it can write, read, list, assemble and delete in both buckets, and copy to the vault",
        )
    ]


async def use_bucket(bucket: Bucket) -> None:
    """Do everything that the API, a worker and the sweeper do in the bucket."""
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
            )  # a completed upload no longer exists, but the right is checked first


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
        raise StoreUnavailable(f"/{bucket.name}: the bytes read are not those that were written")


async def check_service_rights(resources: Resources) -> list[Finding]:
    """Check that the service identity has no other rights, as it would if its keys were those of
    root.
    """
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
            "it cannot create or remove buckets, use other buckets, change policies or event rules,"
            " or administer the store",
        )
    ]


async def check_signer(resources: Resources) -> list[Finding]:
    """Check that the signer may only put to incoming, because the holder of an upload URL may be
    able to use its rights.
    """
    settings = resources.settings
    rights = await find_rights(
        resources, settings.s3_signer_access_key, secret_key=settings.s3_signer_secret_key
    )
    return [
        judge_rights(
            "signer",
            rights,
            only="put to incoming",
            otherwise="it may not put to incoming, so every upload would be refused",
        )
    ]


async def check_reader(resources: Resources) -> list[Finding]:
    """Check that the reader may only read the vault, if there is one. nginx gets its signatures."""
    settings = resources.settings
    access_key, secret_key = settings.s3_reader_access_key, settings.s3_reader_secret_key
    if access_key is None or secret_key is None:
        return []
    return [
        judge_rights(
            "reader",
            await find_rights(resources, access_key, secret_key=secret_key),
            only="read the vault",
            otherwise="it may not read the vault, so nginx could send no download",
        )
    ]


def judge_rights(name: str, rights: list[str], *, only: str, otherwise: str) -> Finding:
    """Judge an identity that needs one right. `otherwise` is what is wrong if it lacks that."""
    if only not in rights:
        return failed(name, otherwise, BOOTSTRAP)
    too_much = [right for right in rights if right != only]
    if too_much:
        return failed(name, f"it may also {', '.join(too_much)}", BOOTSTRAP)
    return ok(name, f"it may {only} and nothing else")


async def find_rights(resources: Resources, access_key: str, *, secret_key: str) -> list[str]:
    """Return what this identity may do in both buckets and elsewhere."""
    settings = resources.settings
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
            attempts = {
                "put to incoming": lambda: put(incoming, key),
                "read incoming": lambda: incoming.head(key),
                "list incoming": lambda: take_first(incoming),
                "delete in incoming": lambda: incoming.delete(key),
                "write to the vault": lambda: put(vault, vault_key),
                "read the vault": lambda: vault.head(vault_key),
                "list the vault": lambda: take_first(vault),
                "delete in the vault": lambda: vault.delete(vault_key),
            }
            rights = [name for name, attempt in attempts.items() if await is_allowed(attempt)]
            return rights + await list_excess(settings, access_key, secret_key=secret_key)
    finally:
        store.close()


async def is_allowed(attempt: Callable[[], Awaitable[object]]) -> bool:
    """Return whether the attempt is allowed.

    Raises StoreError if the store neither allows nor denies it.
    """
    try:
        await attempt()
    except StoreUnavailable as error:
        if error.status == 403:
            return False
        raise
    return True


async def take_first(bucket: Bucket) -> None:
    """List the doctor's own objects in the bucket.

    A listing of clients' objects could fail, because MinIO lists none beside an unreadable one.
    """
    async for _ in bucket.list_keys(prefix=PROBE_PREFIX):
        return
