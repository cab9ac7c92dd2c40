"""Arrivals: their records, the count of unreported uploads, and `complete` for a final file."""

from datetime import datetime

import msgspec
import pytest

from service import problems
from service.files.lookup import delete_file, find_file
from service.model import Sha256, State
from service.queries import files, health
from service.resources import Resources
from service.telemetry.metrics import ARRIVALS
from service.uploads.arrivals import record_event
from service.uploads.completion import complete_upload
from service.uploads.declaring import renew_upload
from tests.integration.steps import declare, send, take_due
from tests.support.faults import FaultyBucket, FaultyPool, Hook, lose_answer
from tests.support.methods import Method
from tests.support.objects import key_of

pytestmark = [pytest.mark.anyio, pytest.mark.one_store]


async def look(resources: Resources) -> None:
    """Make every unfinished file due, then claim and verify one of them."""
    await resources.pool.execute("UPDATE files SET due_at = now() WHERE due_at IS NOT NULL")
    await take_due(resources)


async def verifying_since(resources: Resources) -> datetime | None:
    since: datetime | None = await resources.pool.fetchval("SELECT verifying_since FROM files")
    return since


def found_by_ourselves() -> float:
    count: float = ARRIVALS.labels("sweep")._value.get()
    return count


async def test_the_wait_for_a_proof_is_counted_from_the_first_arrival(resources: Resources) -> None:
    declared = await declare(resources)
    await resources.pool.execute("UPDATE files SET created_at = now() - interval '23 hours'")
    assert await verifying_since(resources) is None
    await record_event(resources, key_of(declared.file))
    first = await verifying_since(resources)
    await record_event(resources, key_of(declared.file))
    assert first is not None
    assert await verifying_since(resources) == first
    assert (await health.measure_backlog(resources.pool)).verifying_seconds < 60


async def test_an_arrival_without_an_object_makes_the_file_pending_again(
    resources: Resources,
) -> None:
    declared = await declare(resources)
    await record_event(resources, key_of(declared.file))
    await look(resources)
    assert (await find_file(resources, declared.file.id, owner=None)).state == State.PENDING
    assert await verifying_since(resources) is None


async def test_an_unreported_file_counts_once_in_spite_of_store_outages(
    resources: Resources, method: Method
) -> None:
    file = (await send(resources)).file
    before = found_by_ourselves()
    vault = FaultyBucket(resources.vault)
    vault.before[method.write] = lose_answer
    for _ in range(3):
        await look(msgspec.structs.replace(resources, vault=vault))
    assert found_by_ourselves() == before + 1
    await look(resources)
    assert (await find_file(resources, file.id, owner=None)).state == State.READY
    assert found_by_ourselves() == before + 1


async def test_complete_with_any_digest_reports_a_deleted_file_as_gone(
    resources: Resources,
) -> None:
    file = (await send(resources)).file
    await look(resources)
    await delete_file(resources, file.id, owner="ann")
    with pytest.raises(problems.FileGone):
        await complete_upload(resources, file.id, owner="ann", sha256=Sha256(bytes(32)))


async def test_another_digest_is_a_conflict_while_the_file_exists(resources: Resources) -> None:
    file = (await send(resources)).file
    await look(resources)
    with pytest.raises(problems.DigestConflict):
        await complete_upload(resources, file.id, owner="ann", sha256=Sha256(bytes(32)))


async def test_a_refused_fresh_url_names_the_current_state_of_the_file(
    resources: Resources,
) -> None:
    """Make the file final after its object was found and before the arrival is recorded."""
    proved = (await send(resources)).file
    with pytest.raises(problems.AlreadyUploaded) as refused:
        await renew_upload(overtaken(resources, lambda: look(resources)), proved)
    assert refused.value.extension == {"state": "ready"}
    deleted = (await send(resources)).file
    with pytest.raises(problems.FileGone):
        await renew_upload(
            overtaken(resources, lambda: delete_file(resources, deleted.id, owner="ann")),
            deleted,
        )


def overtaken(resources: Resources, by: Hook) -> Resources:
    return msgspec.structs.replace(
        resources, pool=FaultyPool(resources.pool, files.RECORD_ARRIVAL, before=by)
    )
