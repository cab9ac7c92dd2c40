"""The explanations of `assay inspect` in the situations that operators are likely to meet."""

import hashlib
from collections.abc import AsyncIterator
from datetime import timedelta

import msgspec
import pytest

from service.cli.inspect import describe, encode
from service.files.lookup import delete_file
from service.model import File, Sha256, State, make_id
from service.operations.inspection import Inspection, inspect_file
from service.problems import NotFound
from service.queries import claims, files, verdicts
from service.resources import Resources, open_resources
from service.settings import Settings, Url
from service.uploads.arrivals import record_event
from tests.integration.steps import TWO_PARTS, declare, declare_parts, find, put_parts
from tests.support.claims import claim_files
from tests.support.objects import key_of
from tests.support.servers import free_port

pytestmark = [pytest.mark.anyio, pytest.mark.one_store]
BODY = b"hello"
LEASE = timedelta(minutes=1)


@pytest.fixture
async def file(resources: Resources) -> File:
    return (await declare(resources, size=len(BODY), owner="ada", filename="ü.txt")).file


async def send(resources: Resources, file: File) -> None:
    assert file.incoming_key
    await resources.incoming.put(
        file.incoming_key, BODY, content_type="text/plain", metadata={}, tags={}, timeout_seconds=10
    )


async def test_an_upload_that_never_arrived_is_explained(resources: Resources, file: File) -> None:
    found = await inspect_file(resources, file.id)
    assert "has not arrived" in found.why
    assert "a worker checks it in" in found.next
    assert "expires after" in found.next
    assert [place.is_empty for place in found.places] == [True]


async def test_the_missing_parts_of_an_upload_are_counted(resources: Resources) -> None:
    file = await declare_parts(resources)
    assert (
        "0 of its 2 parts have arrived, the others are missing"
        in (await inspect_file(resources, file.id)).why
    )
    await put_parts(resources, file, TWO_PARTS, 2)
    found = await inspect_file(resources, file.id)
    assert "1 of its 2 parts have arrived" in found.why
    assert "parts               1 of 2 at the store" in describe(found)
    await put_parts(resources, file, TWO_PARTS, 1)
    assert "`complete` was not called" in (await inspect_file(resources, file.id)).why
    upload_id = (await find(resources, file)).upload_id
    await resources.incoming.abort_upload(key_of(file), upload_id or "")
    assert "completed or removed" in (await inspect_file(resources, file.id)).why


async def test_an_upload_without_an_arrival_report_is_explained(
    resources: Resources, file: File
) -> None:
    await send(resources, file)
    found = await inspect_file(resources, file.id)
    assert "neither the store's event nor" in found.why
    assert (found.places[0].role, found.places[0].size) == ("incoming", len(BODY))


async def test_an_upload_that_no_worker_has_claimed_is_explained(
    resources: Resources, file: File
) -> None:
    await send(resources, file)
    await record_event(resources, key_of(file))
    found = await inspect_file(resources, file.id)
    assert found.file.state == State.VERIFYING
    assert "no worker has claimed it" in found.why
    assert "now (due since" in found.next


async def test_the_lease_of_a_claimed_file_is_explained(resources: Resources, file: File) -> None:
    await send(resources, file)
    await record_event(resources, key_of(file))
    (claim,) = await claim_files(resources.pool, 1, lease=LEASE)
    found = await inspect_file(resources, file.id)
    assert "a worker holds its lease" in found.why
    assert "its lease expires in" in found.next
    assert [one.vault_key for one in found.reservations] == [claim.vault_key]
    assert [(place.role, place.is_empty) for place in found.places] == [
        ("incoming", False),
        ("copy", True),
    ]


async def test_the_last_error_of_the_store_is_shown(resources: Resources, file: File) -> None:
    await record_event(resources, key_of(file))
    (claim,) = await claim_files(resources.pool, 1, lease=LEASE)
    await claims.release_claim(
        resources.pool, claim, retry_in=timedelta(minutes=5), error="SlowDown"
    )
    found = await inspect_file(resources, file.id)
    assert found.why == "attempt 1 has failed: SlowDown"


async def test_the_error_of_a_first_attempt_does_not_explain_the_second(
    resources: Resources, file: File
) -> None:
    await record_event(resources, key_of(file))
    (claim,) = await claim_files(resources.pool, 1, lease=LEASE)
    await claims.release_claim(resources.pool, claim, retry_in=timedelta(0), error="SlowDown")
    await claim_files(resources.pool, 1, lease=LEASE)
    assert (await inspect_file(resources, file.id)).why == "a worker holds its lease (attempt 2)"


async def test_an_event_without_an_object_does_not_hide_the_expiry(
    resources: Resources, file: File
) -> None:
    await record_event(resources, key_of(file))
    assert "expires after" in (await inspect_file(resources, file.id)).next


async def test_the_deletion_of_a_file_is_explained(resources: Resources, file: File) -> None:
    await send(resources, file)
    await delete_file(resources, file.id, owner="ada")
    found = await inspect_file(resources, file.id)
    assert found.why == "its owner deleted it"
    assert "its key in incoming is swept now" in found.next


@pytest.fixture
async def without_store(settings: Settings) -> AsyncIterator[Resources]:
    away = msgspec.structs.replace(settings, s3_endpoint=Url(f"http://127.0.0.1:{free_port()}"))
    async with open_resources(away) as opened:
        yield opened


async def test_the_row_is_shown_while_the_store_is_unavailable(
    resources: Resources, without_store: Resources, file: File
) -> None:
    found = await inspect_file(without_store, file.id)
    assert found.file.id == file.id
    assert "the store cannot be read" in found.why


async def test_a_proved_file_is_shown_with_its_object(resources: Resources, file: File) -> None:
    await send(resources, file)
    await record_event(resources, key_of(file))
    (claim,) = await claim_files(resources.pool, 1, lease=LEASE)
    key = str(claim.vault_key)
    etag = await resources.vault.put(
        key, BODY, content_type="text/plain", metadata={}, tags={}, timeout_seconds=10
    )
    digest = Sha256(hashlib.sha256(BODY).digest())
    assert await verdicts.commit_verification(
        resources.pool, claim, size=len(BODY), sha256=digest, etag=etag
    )
    found = await inspect_file(resources, file.id)
    assert found.why.startswith("proved")
    assert ("proved object", len(BODY)) in [(place.role, place.size) for place in found.places]
    check_texts(found)


def check_texts(found: Inspection) -> None:
    assert str(found.file.hash) in describe(found)
    assert "why   proved" in describe(found)
    assert str(found.file.hash) in encode(found)


async def test_a_file_that_does_not_exist_is_not_found(resources: Resources) -> None:
    with pytest.raises(NotFound):
        await inspect_file(resources, make_id())


async def test_an_inspection_changes_nothing(resources: Resources, file: File) -> None:
    before = await files.find_file(resources.pool, file.id, owner=None)
    await inspect_file(resources, file.id)
    assert await files.find_file(resources.pool, file.id, owner=None) == before
