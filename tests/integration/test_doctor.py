"""The doctor over each store: what is well is said to be well, and each fault that it is there for is found."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import pytest

from service.doctor import Finding, events, examine
from service.doctor.clocks import check_clocks
from service.doctor.database import check_database, check_listen
from service.doctor.enforcement import check_enforcement
from service.doctor.identities import check_key_ids, check_service_identity, check_signer
from service.doctor.store import check_endpoints
from service.object_store.administration import Administration
from service.queries.inspection import count_unannounced
from service.resources import Resources, open_resources
from service.settings import Secret, Settings, Url
from tests.invariants import list_bucket
from tests.servers import free_port
from tests.stores import StoreUnderTest

pytestmark = pytest.mark.anyio

WARNINGS = {
    "minio": {"URL: streaming", "URL: signature"},
    "embedded": {"URL: if-none-match", "URL: snowball"},
}
"""What each store lets through (storage-facts.md, "Presigned URLs")."""


def statuses(findings: list[Finding]) -> dict[str, str]:
    return {finding.name: finding.status for finding in findings}


@asynccontextmanager
async def changed(settings: Settings, **changes: Any) -> AsyncIterator[Resources]:
    async with open_resources(msgspec.structs.replace(settings, **changes)) as opened:

        async def listens() -> bool:
            return opened.signals.connected

        # asyncpg complains about a connection that is closed while it is being made
        await events.wait_for(listens, seconds=0 if "database_url" in changes else 5)
        yield opened


@pytest.mark.parametrize("check", [check_database, check_listen, check_endpoints, check_service_identity, check_signer, check_clocks])
async def test_what_is_well_is_ok(resources: Resources, check: Any) -> None:
    findings = await check(resources)
    assert findings
    assert {finding.status for finding in findings} == {"ok"}
    assert not any(finding.advice for finding in findings)


async def test_what_each_store_enforces(resources: Resources, store: StoreUnderTest) -> None:
    found = statuses(await check_enforcement(resources))
    warned = {name for name, status in found.items() if status == "warning"}
    if store.kind in WARNINGS:
        assert warned == WARNINGS[store.kind]
    assert "failed" not in found.values()


async def test_nothing_of_the_probes_stays(resources: Resources) -> None:
    await check_service_identity(resources)
    await check_signer(resources)
    await check_enforcement(resources)
    assert await list_bucket(resources.incoming) == set()
    assert await list_bucket(resources.vault) == set()


async def test_a_signer_with_too_many_rights_is_found(resources: Resources, deployment: Any) -> None:
    administration = Administration(
        deployment.endpoint, access_key=deployment.root_access_key, secret_key=deployment.root_secret_key, region=deployment.region
    )
    administration.set_policy(deployment.signer_access_key, deployment.service_policy_name)
    await wait_for_policy(resources)
    (finding,) = await check_signer(resources)
    administration.close()
    assert finding.status == "failed"
    assert "write to the vault" in finding.what
    assert "assay bootstrap" in finding.advice


async def wait_for_policy(resources: Resources) -> None:
    """A change of rights may take a moment."""

    async def took_effect() -> bool:
        return (await check_signer(resources))[0].status != "ok"

    assert await events.wait_for(took_effect, seconds=20)


async def test_a_wrong_secret_of_the_service_identity_is_found(settings: Settings) -> None:
    async with changed(settings, s3_secret_key=Secret("another-secret-entirely")) as resources:
        found = [finding async for finding in examine(resources)]
    assert "failed" in {finding.status for finding in found}
    assert not any(settings.s3_access_key in finding.what for finding in found)
    # What rests on the identity is not tried: it would only repeat it.
    assert not any(finding.name.startswith(("URL", "event")) for finding in found)


async def test_a_key_id_that_can_be_guessed_is_found(settings: Settings) -> None:
    async with changed(settings, s3_access_key=Secret("minioadmin")) as resources:
        assert [finding.status for finding in await check_key_ids(resources)] == ["failed"]


async def test_a_key_id_that_every_url_shows_is_found(settings: Settings) -> None:
    shown = Secret("3f9ac27be1d05486a7c1")
    async with changed(settings, s3_access_key=shown, s3_signer_access_key=shown) as resources:
        (finding,) = await check_key_ids(resources)
        assert "signer" in finding.what


async def test_a_store_that_is_away_is_found(settings: Settings) -> None:
    async with changed(settings, s3_endpoint=Url(f"http://127.0.0.1:{free_port()}")) as resources:
        found = statuses(await check_endpoints(resources))
    assert found == {"endpoint": "failed", "public endpoint": "warning"}


async def test_a_public_endpoint_that_does_not_answer_here_is_only_a_warning(settings: Settings) -> None:
    async with changed(settings, s3_public_endpoint=Url(f"http://127.0.0.1:{free_port()}")) as resources:
        found = statuses(await check_endpoints(resources))
    assert found == {"endpoint": "ok", "public endpoint": "warning"}


async def test_a_database_that_is_away_is_found(settings: Settings) -> None:
    away = Secret(f"postgresql://assay:hidden@127.0.0.1:{free_port()}/assay")
    async with changed(settings, database_url=away) as resources:
        found = [finding async for finding in examine(resources)]
    (first,) = [finding for finding in found if finding.name == "database"]
    assert first.status == "failed"
    assert not any("hidden" in finding.what for finding in found)


async def test_another_schema_is_found(resources: Resources) -> None:
    await resources.pool.execute("UPDATE alembic_version SET version_num = '0000'")
    (finding,) = await check_database(resources)
    assert (finding.status, finding.advice) == ("failed", "run `assay migrate`")


async def test_an_event_that_does_not_come_is_found(resources: Resources, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody listens at the webhook's address."""
    monkeypatch.setattr(events, "EVENT_SECONDS", 0.5)
    (finding,) = await events.check_events(resources)
    assert (finding.name, finding.status) == ("event", "failed")
    assert "/webhooks/minio" in finding.advice
    assert await resources.pool.fetchval("SELECT array_agg(state) FROM files") == ["deleted"]


async def test_uploads_that_no_event_announced_are_counted(resources: Resources) -> None:
    assert statuses(await events.check_announcements(resources)) == {"announcements": "ok"}
    file_id, status = await events.send_probe(resources, {})
    assert status == 200
    await resources.pool.execute(
        """
        UPDATE files SET state = 'rejected', rejection_reason = 'size-mismatch', rejection_detail = '', due_at = NULL, final_at = now()
        WHERE id = $1
        """,
        file_id,
    )
    assert await count_unannounced(resources.pool, events.LATELY) == 1
    assert statuses(await events.check_announcements(resources)) == {"announcements": "warning"}
