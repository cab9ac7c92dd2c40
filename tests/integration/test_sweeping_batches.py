"""Batches of the sweeper: one sweep processes everything that is due, even after a failed batch."""

import msgspec
import pytest

from service.object_store import StoreError
from service.resources import Resources
from service.worker.sweeper import sweep
from tests.integration.steps import declare
from tests.support.faults import FaultyBucket

pytestmark = [pytest.mark.anyio, pytest.mark.one_store]


async def test_one_sweep_processes_everything_that_is_due(resources: Resources) -> None:
    for _ in range(40):
        declared = await declare(resources)
        await resources.pool.execute(
            """
            UPDATE files SET state = 'deleted', changed_by = 'client',
                   hash = sha256('x'), minio_object_name = gen_random_uuid(), vault_etag = 'e',
                   upload_date = now(), final_at = now(), due_at = NULL WHERE id = $1
            """,
            declared.file.id,
        )
    for _ in range(20):
        await resources.pool.execute(
            "UPDATE files SET sweep_at = now(), sweeps = 0, purge_at = now()"
        )
        await sweep(resources)
        left = await resources.pool.fetchrow(
            """
            SELECT count(*) FILTER (WHERE sweep_at <= now()) AS incoming,
                   count(*) FILTER (WHERE purge_at <= now()) AS objects
            FROM files
            """
        )
        assert tuple(left) == (0, 0)


async def test_a_whole_batch_that_cannot_be_swept_blocks_no_other(resources: Resources) -> None:
    """Fail the deletion of the first 100 objects. That of the last one succeeds."""
    for _ in range(101):
        declared = await declare(resources)
        await resources.pool.execute(
            """
            UPDATE files SET state = 'deleted', changed_by = 'client',
                   hash = sha256('x'), minio_object_name = gen_random_uuid(), vault_etag = 'e',
                   upload_date = now(), final_at = now(), due_at = NULL, sweep_at = NULL,
                   purge_at = now()
            WHERE id = $1
            """,
            declared.file.id,
        )
    last = str(
        await resources.pool.fetchval(
            "SELECT minio_object_name FROM files ORDER BY purge_at DESC LIMIT 1"
        )
    )

    class FailingBucket(FaultyBucket):
        async def delete(self, key: str, **_: object) -> None:
            if key != last:
                raise StoreError("no")

    await sweep(msgspec.structs.replace(resources, vault=FailingBucket(resources.vault)))
    assert await resources.pool.fetchval("SELECT count(*) FROM files WHERE purge_at IS NULL") == 1
