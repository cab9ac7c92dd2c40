"""Streamed uploads that end before the id of their multipart upload is recorded.

No other process can learn that id.
"""

import os
from collections.abc import AsyncIterator, Callable
from typing import Any

import msgspec
import pytest

from service import problems
from service.object_store.messages import Deadline, Request
from service.queries import reservations
from service.resources import Resources
from service.settings import Deployment
from service.uploads.buffers import PART_BYTES, UploadBuffers
from service.uploads.streamed import UploadHeaders, upload_stream
from tests.support.faults import FaultyPool, lose_connection
from tests.support.stores import open_root_store

pytestmark = [pytest.mark.anyio, pytest.mark.own_deployment]  # it counts the uploads of its buckets

HEADERS = UploadHeaders(owner="ann", filename="photo.jpg", content_type=None, most_bytes=None)


async def large_body() -> AsyncIterator[bytes]:
    for _ in range(PART_BYTES // 65_536 + 1):
        yield os.urandom(65_536)


def count_uploads(deployment: Deployment) -> int:
    """Return the number of multipart uploads in the whole vault, as root sees them."""
    with open_root_store(deployment) as root:
        vault = root.bucket(deployment.vault_bucket)
        answer = vault.client.send(
            Request("GET", vault.name, query={"uploads": "", "prefix": ""}), Deadline(10)
        )
    assert b"<ListMultipartUploadsResult" in answer.body
    return answer.body.count(b"<Upload>")


async def upload(resources: Resources) -> None:
    buffers = UploadBuffers()
    try:
        await upload_stream(resources, buffers.open_loan(HEADERS.owner), HEADERS, large_body())
    finally:
        buffers.close()


async def keys_of(resources: Resources) -> list[Any]:
    rows = await resources.pool.fetch(
        "SELECT doomed_at IS NOT NULL AS doomed, upload_id FROM reservations"
    )
    return [(row["doomed"], row["upload_id"]) for row in rows]


@pytest.fixture
def uploads_of(deployment: Deployment) -> Callable[[], int]:
    return lambda: count_uploads(deployment)


async def test_a_doom_before_the_upload_id_is_recorded_leaves_no_upload(
    resources: Resources, uploads_of: Callable[[], int]
) -> None:
    async def doom() -> None:
        await resources.pool.execute("UPDATE reservations SET doomed_at = now(), sweep_at = now()")

    faulty = msgspec.structs.replace(
        resources, pool=FaultyPool(resources.pool, reservations.NAME_UPLOAD, before=doom)
    )
    with pytest.raises(problems.Unavailable):
        await upload(faulty)
    assert uploads_of() == 0
    assert await keys_of(resources) == [(True, None)]


async def test_a_connection_lost_before_the_upload_id_is_recorded_leaves_none(
    resources: Resources, uploads_of: Callable[[], int]
) -> None:
    pool = FaultyPool(resources.pool, reservations.NAME_UPLOAD, before=lose_connection)
    faulty = msgspec.structs.replace(
        resources, pool=FaultyPool(pool, reservations.DOOM, before=lose_connection)
    )
    with pytest.raises(ConnectionResetError):
        await upload(faulty)
    assert uploads_of() == 0
    # The sweeper removes the reservation when its lease has expired.
    assert await keys_of(resources) == [(False, None)]
