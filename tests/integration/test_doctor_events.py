"""The doctor's checks of events: the rule, the delivery to the webhook, and missing events."""

from collections.abc import Iterator
from uuid import UUID

import pytest

from service.object_store import StoreUnavailable
from service.object_store.administration import Administration, EventRule
from service.operations.doctor import anonymous_requests, events
from service.operations.policies import allow
from service.resources import Resources
from service.settings import Deployment
from tests.support.examining import answering, statuses, with_urls_to
from tests.support.proxies import faulty_proxy
from tests.support.stores import StoreUnderTest, root_sdk

pytestmark = [pytest.mark.anyio, pytest.mark.own_deployment]


@pytest.fixture
def administration(deployment: Deployment) -> Iterator[Administration]:
    root = (deployment.s3_root_access_key, deployment.s3_root_secret_key)
    opened = Administration(
        deployment.s3_endpoint, access_key=root[0], secret_key=root[1], region=deployment.s3_region
    )
    yield opened
    opened.close()


async def test_a_missing_event_rule_is_found(
    resources: Resources, deployment: Deployment, administration: Administration
) -> None:
    assert statuses(await events.check_event_rule(resources)) == {"event rule": "ok"}
    other = EventRule(arn=deployment.webhook_arn, events=frozenset({"s3:ObjectRemoved:*"}))
    administration.replace_event_rule(deployment.incoming_bucket, other)
    (finding,) = await events.check_event_rule(resources)
    assert (finding.name, finding.status, finding.advice) == (
        "event rule",
        "failed",
        "run `assay bootstrap`",
    )
    root_sdk(deployment).delete_bucket_notification(deployment.incoming_bucket)
    assert statuses(await events.check_event_rule(resources)) == {"event rule": "failed"}


async def test_rules_that_may_not_be_read_give_no_finding(
    resources: Resources, deployment: Deployment, administration: Administration
) -> None:
    buckets = [deployment.incoming_bucket, deployment.vault_bucket]
    objects = allow(("s3:PutObject",), [f"{bucket}/*" for bucket in buckets])
    administration.put_policy(deployment.service_policy_name, objects)

    async def took_effect() -> bool:
        return not await events.check_event_rule(resources)

    assert await events.wait_for(took_effect, seconds=20)


async def test_an_event_that_does_not_arrive_is_found(
    resources: Resources, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Configure a webhook address at which nothing listens."""
    monkeypatch.setattr(events, "EVENT_SECONDS", 0.5)
    (finding,) = await events.check_events(resources)
    assert (finding.name, finding.status) == ("event", "failed")
    assert "/webhooks/minio" in finding.advice
    assert await resources.pool.fetchval("SELECT array_agg(state) FROM files") == ["deleted"]


async def test_a_probe_whose_response_is_lost_leaves_no_file(
    resources: Resources, store: StoreUnderTest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(anonymous_requests, "SECONDS", 0.3)
    with faulty_proxy(store.address) as proxy:
        proxy.silent = True
        with pytest.raises(StoreUnavailable):
            await events.check_events(with_urls_to(resources, proxy.endpoint))
    assert await resources.pool.fetchval("SELECT array_agg(state) FROM files") == ["deleted"]


async def test_only_a_refusal_shows_that_events_cannot_be_suppressed(
    resources: Resources,
) -> None:
    for status, found in ((400, "ok"), (503, "failed"), (302, "failed")):
        with answering(status) as endpoint:
            finding = await events.check_suppression(with_urls_to(resources, endpoint))
        assert finding.status == found


async def make_final(resources: Resources, file_id: UUID, *, arrivals: int) -> None:
    await resources.pool.execute(
        """
        UPDATE files SET state = 'rejected', changed_by = 'worker',
                         rejection_reason = 'size-mismatch', rejection_detail = '',
                         due_at = NULL, final_at = now(), arrivals = $2
        WHERE id = $1
        """,
        file_id,
        arrivals,
    )


async def test_uploads_without_an_event_are_counted(resources: Resources) -> None:
    (nothing,) = await events.check_announcements(resources)
    assert nothing.status == "ok"
    assert "of 0 uploads" in nothing.what
    signer = resources.signer
    async with (
        events.declared_probe(resources, signer) as first,
        events.declared_probe(resources, signer) as second,
    ):
        await make_final(resources, first.file_id, arrivals=1)
        (announced,) = await events.check_announcements(resources)
        await make_final(resources, second.file_id, arrivals=0)
        (unannounced,) = await events.check_announcements(resources)
    assert announced.status == "ok"
    # `complete` increments the same counter. A missing event cannot be detected for a completed
    # upload, and the finding says so.
    assert "of 1 uploads" in announced.what
    assert "by an event or by `complete`" in announced.what
    assert unannounced.status == "warning"
    assert "of 2 uploads" in unannounced.what
    assert "newest 10,000" in unannounced.what
