"""The verification of a file with a real database and a real store, and its outcomes."""

import gzip

import asyncpg
import pytest

from service import problems
from service.model import RejectionReason, Sha256, State
from service.object_store import Bucket
from service.queries import reservations
from service.resources import Resources
from service.settings import Deployment
from service.uploads.completion import complete_upload
from service.worker.sweeper import sweep
from tests.integration.steps import (
    BODY,
    OTHER,
    RETRY,
    claim,
    claim_due,
    declare,
    find,
    let_settle,
    prove,
    put,
    run,
    send,
    sha256,
    take_due,
)
from tests.support.claims import claim_files
from tests.support.clock import DAY, pass_time
from tests.support.invariants import check_nothing_left, list_bucket
from tests.support.objects import key_of, put_as_root, read_all
from tests.support.stores import read_headers, read_tags

pytestmark = pytest.mark.anyio


async def test_an_upload_is_copied_hashed_and_ready(resources: Resources) -> None:
    declared = await send(resources)
    file = await prove(resources, declared.file)
    assert (file.state, file.hash) == (State.READY, sha256(BODY))
    assert read_all(resources.vault, str(file.minio_object_name)) == BODY
    stored = await resources.vault.head(str(file.minio_object_name))
    assert stored.metadata["assay-file-id"] == str(file.id)
    assert stored.metadata["assay-filename"] == "%C3%A4%20b.txt"
    await sweep(resources)
    assert await list_bucket(resources.incoming) == set()
    await check_nothing_left(resources)


async def test_an_empty_file_is_ready(resources: Resources) -> None:
    declared = await send(resources, b"")
    assert (await prove(resources, declared.file)).hash == sha256(b"")


@pytest.mark.parametrize(
    ("sent", "declared_digest", "sent_type", "reason"),
    [
        (BODY + b"!", None, "text/plain", RejectionReason.SIZE_MISMATCH),
        (BODY, None, "text/html", RejectionReason.CONTENT_TYPE_MISMATCH),
        (OTHER, sha256(BODY), "text/plain", RejectionReason.DIGEST_MISMATCH),
    ],
)
async def test_an_object_that_differs_from_its_declaration_is_rejected(
    resources: Resources,
    root_incoming: Bucket,
    sent: bytes,
    declared_digest: Sha256 | None,
    sent_type: str,
    reason: RejectionReason,
) -> None:
    declared = await declare(resources, digest=declared_digest)
    put_as_root(root_incoming, key_of(declared.file), sent, content_type=sent_type)
    file = await prove(resources, declared.file)
    assert (file.state, file.rejection_reason, file.hash) == (State.REJECTED, reason, None)
    assert file.rejection_detail
    await let_settle(resources)
    assert await list_bucket(resources.incoming) | await list_bucket(resources.vault) == set()


async def test_an_undeclared_type_is_not_compared(
    resources: Resources, root_incoming: Bucket
) -> None:
    declared = await declare(resources, content_type=None)
    put_as_root(root_incoming, key_of(declared.file), BODY, content_type="text/whatever")
    assert (await prove(resources, declared.file)).state == State.READY


async def test_a_check_that_finds_no_object_returns_the_file_to_pending(
    resources: Resources,
) -> None:
    declared = await declare(resources)
    file = await prove(resources, declared.file)
    assert file.state == State.PENDING
    assert await reservations.list_reservations(resources.pool, file.id) == []
    assert await claim_files(resources.pool, 1, lease=RETRY) == []


async def test_an_upload_that_never_arrived_expires_after_its_grace_period(
    resources: Resources,
) -> None:
    declared = await declare(resources)
    await pass_time(resources.pool, 3 * DAY)
    await run(resources, await claim_due(resources))
    assert (await find(resources, declared.file)).state == State.EXPIRED


async def test_an_upload_without_an_event_is_found_when_its_file_would_expire(
    resources: Resources,
) -> None:
    declared = await send(resources)
    await pass_time(resources.pool, 3 * DAY)
    await take_due(resources)
    assert (await find(resources, declared.file)).state == State.READY


async def test_headers_and_tags_of_the_client_do_not_reach_the_vault(
    resources: Resources, root_incoming: Bucket, deployment: Deployment
) -> None:
    packed = gzip.compress(BODY)
    declared = await declare(resources, size=len(packed))
    put_as_root(
        root_incoming,
        key_of(declared.file),
        packed,
        **{"Content-Encoding": "gzip", "x-amz-tagging": "delete=soon"},
    )
    file = await prove(resources, declared.file)
    assert (file.state, file.hash) == (State.READY, sha256(packed))
    name = str(file.minio_object_name)
    assert read_tags(deployment, resources.vault.name, name) == {"assay-file-id": str(file.id)}
    assert "content-encoding" not in read_headers(deployment, resources.vault.name, name)


async def test_complete_checks_the_store_and_sets_the_digest_once(resources: Resources) -> None:
    declared = await declare(resources)
    with pytest.raises(problems.NotUploaded):
        await complete_upload(resources, declared.file.id, owner="ann", sha256=None)
    await put(declared)
    held = await claim(resources, declared.file)  # so that `complete` does not prove the file
    file = await complete_upload(resources, declared.file.id, owner="ann", sha256=sha256(BODY))
    assert (file.state, file.declared_sha256) == (State.VERIFYING, sha256(BODY))
    with pytest.raises(problems.DigestConflict):
        await complete_upload(resources, declared.file.id, owner="ann", sha256=sha256(OTHER))
    await run(resources, held)
    assert (
        await complete_upload(resources, declared.file.id, owner="ann", sha256=None)
    ).state == State.READY
    with pytest.raises(problems.DigestConflict):
        await complete_upload(resources, declared.file.id, owner="ann", sha256=sha256(OTHER))


async def test_the_database_refuses_a_hash_without_a_proof(resources: Resources) -> None:
    await declare(resources)
    with pytest.raises(asyncpg.CheckViolationError):
        await resources.pool.execute("UPDATE files SET hash = sha256('x')")
