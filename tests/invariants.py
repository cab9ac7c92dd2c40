"""The blueprint's invariants, looked up in the database and in both buckets."""

import hashlib
from typing import Any

from service.object_store import Bucket
from service.resources import Resources

FILES = """
    SELECT id, state, incoming_key, hash, minio_object_name, vault_etag, size, declared_sha256, purge_at, sweep_at FROM files
"""


async def list_bucket(bucket: Bucket) -> set[str]:
    return {found.key async for found in bucket.list_keys()}


def read_object(bucket: Bucket, key: str, *, etag: str | None = None) -> bytes:
    with bucket.open(key, etag=etag) as reader:
        return b"".join(iter(lambda: reader.read(1 << 20), b""))


async def check_invariants(resources: Resources) -> None:
    """1, 4, 5, 6, 9: what holds at every moment."""
    incoming, vault = await list_bucket(resources.incoming), await list_bucket(resources.vault)
    # The rows are read after the buckets: every key is written down before anything lies under it.
    copies = {str(row["vault_key"]) for row in await resources.pool.fetch("SELECT vault_key FROM copies")}
    files = await resources.pool.fetch(FILES)
    named = {str(row["minio_object_name"]) for row in files if row["minio_object_name"] and (row["state"] != "deleted" or row["purge_at"])}
    assert vault <= named | copies, f"no row names {vault - named - copies} in the vault"
    assert incoming <= {row["incoming_key"] for row in files}, "no row names an incoming object"
    for row in files:
        if row["state"] == "ready":
            check_ready(resources, row)


def check_ready(resources: Resources, row: Any) -> None:
    body = read_object(resources.vault, str(row["minio_object_name"]), etag=row["vault_etag"])
    assert hashlib.sha256(body).digest() == row["hash"]
    assert len(body) == row["size"]
    assert row["declared_sha256"] in (None, row["hash"])


async def check_nothing_left(resources: Resources) -> None:
    """Past the grace periods: a proved object for each ready file, and nothing else in either bucket."""
    await check_invariants(resources)
    ready = await resources.pool.fetch("SELECT minio_object_name FROM files WHERE state = 'ready'")
    assert await list_bucket(resources.vault) == {str(row["minio_object_name"]) for row in ready}
    waiting = await resources.pool.fetch("SELECT incoming_key FROM files WHERE state IN ('pending', 'verifying')")
    assert await list_bucket(resources.incoming) <= {row["incoming_key"] for row in waiting}
