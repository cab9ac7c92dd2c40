"""The invariants of docs/architecture.md, checked in the database and in both buckets."""

import hashlib
from typing import Any
from uuid import UUID

from service.marker import MARKER_KEY
from service.object_store import Bucket, UploadMissing
from service.resources import Resources
from tests.support.objects import read_all

FILES = """
    SELECT id, state, incoming_key, hash, minio_object_name, vault_etag, size, declared_sha256,
        rejection_reason, purge_at
    FROM files
"""


BROKEN = """
    WITH chain AS (
        SELECT file_id, owner, state, previous, xid,
               lag(state) OVER way AS before, lag(xid) OVER way AS xid_before,
               lead(state) OVER way IS NULL AS last
        FROM file_history WINDOW way AS (PARTITION BY file_id ORDER BY sequence)
    )
    SELECT file_id, chain.previous, before, chain.state, files.state AS now
    FROM chain LEFT JOIN files ON id = file_id
    WHERE chain.previous IS DISTINCT FROM before OR xid < xid_before
       OR files.owner IS DISTINCT FROM chain.owner
       OR last AND chain.state IS DISTINCT FROM files.state
    UNION ALL
    SELECT id, NULL, NULL, NULL, state FROM files
    WHERE NOT EXISTS (SELECT FROM file_history WHERE file_id = id)
"""


async def list_bucket(bucket: Bucket) -> set[str]:
    """Return the keys of all objects but the marker."""
    return {found.key async for found in bucket.list_keys()} - {MARKER_KEY}


async def check_invariants(resources: Resources) -> None:
    """Check invariants 1, 4, 5, 6 and 9, which hold at every moment."""
    await check_objects_are_named(resources)
    await check_files_are_proved(resources)
    await check_history(resources)


async def check_history(resources: Resources) -> None:
    """Check that each file has one unbroken history, which ends in the file's current state.

    The history is read in the order in which readers see it. A history without a file is an error.
    """
    broken = [dict(row) for row in await resources.pool.fetch(BROKEN)]
    assert not broken, f"a history is broken: {broken}"


async def check_objects_are_named(resources: Resources) -> None:
    """Check invariant 4: a row names every object in both buckets.

    A sweeper that runs between the listing of the buckets and the reading of the rows can make
    this fail. The caller then repeats the check.
    """
    incoming, vault = await list_bucket(resources.incoming), await list_bucket(resources.vault)
    # The rows are read after the buckets: a row records every key before it is written to.
    reserved = await resources.pool.fetch("SELECT vault_key, scratch_key FROM reservations")
    copies = {str(row["vault_key"]) for row in reserved}
    files = await resources.pool.fetch(FILES)
    named = {
        str(row["minio_object_name"])
        for row in files
        if row["minio_object_name"] and (row["state"] != "deleted" or row["purge_at"])
    }
    assert vault <= named | copies, f"no row names {vault - named - copies} in the vault"
    scratch = {row["scratch_key"] for row in reserved}
    assert incoming <= {row["incoming_key"] for row in files} | scratch, (
        "no row names an incoming object"
    )


async def check_files_are_proved(
    resources: Resources, read: set[tuple[object, ...]] | None = None
) -> None:
    """Check invariants 1, 5, 6 and 9 of every ready file, which hold also while workers run.

    `read` has what an earlier call has compared: the key, the ETag, and what the row says of the
    object. If all that is the same, the object is only looked for in the listing of the vault. If
    not, it is read, and added to `read`.
    """
    read = set() if read is None else read
    rows = [row for row in await resources.pool.fetch(FILES) if row["state"] == "ready"]
    listed = {(found.key, found.etag) async for found in resources.vault.list_keys()}
    for row in rows:
        stored = (str(row["minio_object_name"]), row["vault_etag"])
        compared = (*stored, row["hash"], row["size"], row["declared_sha256"])
        if compared not in read or stored not in listed:
            check_ready(resources, row)
            read.add(compared)


def check_ready(resources: Resources, row: Any) -> None:
    body = read_all(resources.vault, str(row["minio_object_name"]), etag=row["vault_etag"])
    assert hashlib.sha256(body).digest() == row["hash"]
    assert len(body) == row["size"]
    assert row["declared_sha256"] in (None, row["hash"])


class Outcomes:
    """The outcomes of final files, which must not change (invariants 3 and 5)."""

    def __init__(self) -> None:
        self.seen: dict[UUID, tuple[Any, ...]] = {}

    async def check(self, resources: Resources) -> None:
        for row in await resources.pool.fetch(FILES):
            outcome = tuple(
                row[name]
                for name in ("state", "hash", "minio_object_name", "vault_etag", "rejection_reason")
            )
            before = self.seen.get(row["id"])
            assert before is None or outcome == before or row["state"] == "deleted", (
                f"{before} became {outcome}"
            )
            if row["state"] not in ("pending", "verifying"):
                self.seen[row["id"]] = outcome


async def check_uploads_aborted(resources: Resources) -> None:
    """Check that no doomed reservation and no final file has a multipart upload left.

    The parts of such an upload appear in no listing of objects.
    """
    for row in await resources.pool.fetch(
        "SELECT vault_key, upload_id FROM reservations"
        " WHERE upload_id IS NOT NULL AND doomed_at IS NOT NULL"
    ):
        await check_upload_aborted(resources.vault, str(row["vault_key"]), row["upload_id"])
    final = (
        "SELECT incoming_key, upload_id FROM files"
        " WHERE upload_id IS NOT NULL AND state NOT IN ('pending', 'verifying')"
    )
    for row in await resources.pool.fetch(final):
        await check_upload_aborted(resources.incoming, row["incoming_key"], row["upload_id"])


async def check_upload_aborted(bucket: Bucket, key: str, upload_id: str) -> None:
    try:
        parts = await bucket.list_parts(key, upload_id)
    except UploadMissing:
        return
    raise AssertionError(f"the multipart upload of {key} is left, with {len(parts)} parts")


async def check_nothing_left(resources: Resources) -> None:
    """Check that the buckets hold one proved object for each ready file, and nothing else.

    This holds once the grace periods are over and the sweeper has run. Incoming may still hold
    the objects of files that are not final.
    """
    await check_invariants(resources)
    await check_uploads_aborted(resources)
    ready = await resources.pool.fetch("SELECT minio_object_name FROM files WHERE state = 'ready'")
    assert await list_bucket(resources.vault) == {str(row["minio_object_name"]) for row in ready}
    waiting = await resources.pool.fetch(
        "SELECT incoming_key FROM files WHERE state IN ('pending', 'verifying')"
    )
    assert await list_bucket(resources.incoming) <= {row["incoming_key"] for row in waiting}
