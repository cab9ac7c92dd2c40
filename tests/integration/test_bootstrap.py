"""What `assay bootstrap` creates and repairs, as seen by the identities that it creates."""

import re
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from service.embedded import Webhook, start_store
from service.object_store import Bucket, ObjectMissing, ObjectStore, StoreUnavailable
from service.object_store.administration import Administration, EventRule
from service.object_store.presign import Signer
from service.operations.bootstrap import BootstrapError, bootstrap, describe
from service.settings import BucketName, Deployment, Secret, Url
from tests.support.servers import free_port, genuine_minio, reachable_folder, store_kinds
from tests.support.stores import REGION, StoreUnderTest, listening, now, open_store, send

TEXT = {"content_type": "text/plain", "metadata": {}, "tags": {}, "timeout_seconds": 10}


@pytest.fixture
def deployment(fresh_deployment: Deployment) -> Deployment:
    """Return a deployment with its own identities, because these tests change them."""
    bootstrap(fresh_deployment)
    return fresh_deployment


@pytest.fixture
def administration(store: StoreUnderTest) -> Iterator[Administration]:
    opened = Administration(
        store.endpoint,
        access_key=store.root_access_key,
        secret_key=store.root_secret_key,
        region=REGION,
    )
    yield opened
    opened.close()


def outcomes(deployment: Deployment) -> list[str]:
    return [step.outcome for step in bootstrap(deployment)]


def lifecycle_outcome(store: StoreUnderTest, outcome: str) -> str:
    return "not available" if store.kind == "embedded" else outcome


def test_an_empty_store_is_made_ready(store: StoreUnderTest, fresh_deployment: Deployment) -> None:
    assert outcomes(fresh_deployment) == ["created"] * 7 + [lifecycle_outcome(store, "created")]


def test_a_second_run_changes_nothing(store: StoreUnderTest, deployment: Deployment) -> None:
    assert outcomes(deployment) == ["unchanged"] * 7 + [lifecycle_outcome(store, "unchanged")]


def test_a_widened_policy_is_narrowed_again(
    deployment: Deployment, administration: Administration, signer: Signer, incoming: Bucket
) -> None:
    incoming.put_now("k", b"secret", **TEXT)  # type: ignore[arg-type]  # shared options
    everything = {"Effect": "Allow", "Action": ["s3:*"], "Resource": ["arn:aws:s3:::*"]}
    administration.put_policy(
        deployment.signer_policy_name, {"Version": "2012-10-17", "Statement": [everything]}
    )
    url = signer.presign(
        "GET", deployment.incoming_bucket, key="k", issued_at=now(), expires_in_seconds=60
    )
    assert send("GET", url).status == 200
    assert outcomes(deployment)[2] == "corrected"
    assert send("GET", url).status == 403


def test_a_policy_added_to_an_identity_is_removed(
    deployment: Deployment, administration: Administration
) -> None:
    administration.set_policy(deployment.s3_signer_access_key, "readwrite")
    assert outcomes(deployment)[4] == "corrected"
    found = administration.identity(deployment.s3_signer_access_key)
    assert found is not None
    assert found.policies == {deployment.signer_policy_name}


def test_a_changed_secret_takes_effect(deployment: Deployment) -> None:
    changed = msgspec.structs.replace(
        deployment,
        s3_secret_key="another-of-the-service",
        s3_signer_secret_key="another-of-the-signer",
    )
    assert outcomes(changed)[4:6] == ["corrected", "corrected"]
    with open_store(
        changed.s3_endpoint, changed.s3_access_key, secret_key=changed.s3_secret_key
    ) as store:
        store.bucket(changed.vault_bucket).put_now(
            "k",
            b"v",
            **TEXT,  # type: ignore[arg-type]  # shared options
        )
    with (
        open_store(
            deployment.s3_endpoint, deployment.s3_access_key, secret_key=deployment.s3_secret_key
        ) as store,
        pytest.raises(StoreUnavailable, match="SignatureDoesNotMatch"),
    ):
        store.bucket(deployment.vault_bucket).put_now(
            "k",
            b"v",
            **TEXT,  # type: ignore[arg-type]  # shared options
        )


def test_an_altered_event_rule_is_corrected(
    deployment: Deployment, administration: Administration
) -> None:
    altered = EventRule(arn=deployment.webhook_arn, events=frozenset({"s3:ObjectRemoved:*"}))
    administration.replace_event_rule(deployment.incoming_bucket, altered)
    assert outcomes(deployment)[6] == "corrected"
    rules = administration.event_rules(deployment.incoming_bucket)
    assert rules == [
        EventRule(arn=deployment.webhook_arn, events=frozenset({"s3:ObjectCreated:*"}))
    ]


def test_an_upload_is_announced_to_the_webhook(
    store: StoreUnderTest, deployment: Deployment, incoming: Bucket
) -> None:
    with listening(store) as log:
        incoming.put_now("ä b", b"hello", **TEXT)  # type: ignore[arg-type]  # shared options
        event = log.wait_for(f"{deployment.incoming_bucket}/ä b")
    assert event["EventName"] == "s3:ObjectCreated:Put"


def test_orphans_expire_after_thirty_days(
    store: StoreUnderTest, deployment: Deployment, administration: Administration
) -> None:
    if store.kind == "embedded":
        pytest.skip("the embedded store has no lifecycle rules")
    administration.put_expiry(deployment.incoming_bucket, "somebody-elses", days=400)
    administration.put_expiry(deployment.incoming_bucket, "assay-orphans", days=1)
    assert outcomes(deployment)[7] == "corrected"
    assert administration.expiry_days(deployment.incoming_bucket, "assay-orphans") == 30
    assert administration.expiry_days(deployment.incoming_bucket, "somebody-elses") == 400


@pytest.mark.anyio
async def test_the_service_identity_may_do_its_work_in_both_buckets(
    incoming: Bucket, vault: Bucket
) -> None:
    for bucket in (incoming, vault):
        etag = bucket.put_now("k", b"v", **TEXT)  # type: ignore[arg-type]  # shared options
        upload_id = await bucket.create_upload("m", content_type="text/plain", metadata={}, tags={})
        part_etag = bucket.put_part("m", upload_id, 1, b"part", timeout_seconds=10)
        assert [part.etag for part in await bucket.list_parts("m", upload_id)] == [part_etag]
        await bucket.complete_upload("m", upload_id, [(1, part_etag)])
        await bucket.abort_upload(
            "n", await bucket.create_upload("n", content_type="text/plain", metadata={}, tags={})
        )
        assert [listed.key async for listed in bucket.list_keys()] == ["k", "m"]
        assert (await bucket.head("k")).etag == etag
        assert await bucket.delete_many(["k", "m"]) == []


@pytest.mark.anyio
async def test_a_missing_object_is_reported_as_missing_not_as_forbidden(incoming: Bucket) -> None:
    with pytest.raises(ObjectMissing):
        await incoming.head("absent")


def test_the_service_identity_may_access_no_other_bucket(
    object_store: ObjectStore, administration: Administration, deployment: Deployment
) -> None:
    other = f"other-{deployment.incoming_bucket}"
    administration.make_bucket(other)
    with pytest.raises(StoreUnavailable, match="AccessDenied"):
        object_store.bucket(other).put_now(
            "k",
            b"v",
            **TEXT,  # type: ignore[arg-type]  # shared options
        )
    with pytest.raises(StoreUnavailable, match="AccessDenied"):
        object_store.bucket(other).open("k", etag=None)


@pytest.mark.anyio
async def test_the_signer_may_put_into_incoming_and_nothing_else(
    deployment: Deployment, incoming: Bucket, vault: Bucket
) -> None:
    for bucket in (incoming, vault):
        bucket.put_now("k", b"v", **TEXT)  # type: ignore[arg-type]  # shared options
    with open_store(
        deployment.s3_endpoint,
        deployment.s3_signer_access_key,
        secret_key=deployment.s3_signer_secret_key,
    ) as store:
        as_signer = store.bucket(deployment.incoming_bucket)
        as_signer.put_now("new", b"v", **TEXT)  # type: ignore[arg-type]  # shared options
        with pytest.raises(StoreUnavailable, match="AccessDenied"):
            store.bucket(deployment.vault_bucket).put_now(
                "k",
                b"other",
                **TEXT,  # type: ignore[arg-type]  # shared options
            )
        with pytest.raises(StoreUnavailable, match="AccessDenied"):
            as_signer.open("k", etag=None)
        with pytest.raises(StoreUnavailable, match="AccessDenied"):
            await as_signer.delete("k")
        assert await as_signer.delete_many(["k"]) == ["k"]
        with pytest.raises(StoreUnavailable, match="AccessDenied"):
            [listed async for listed in as_signer.list_keys()]
    assert (await incoming.head("k")).size == 1


def test_a_webhook_that_is_unknown_to_the_store_is_named(fresh_deployment: Deployment) -> None:
    foreign = msgspec.structs.replace(fresh_deployment, webhook_id="NOBODY")
    with pytest.raises(BootstrapError, match="MINIO_NOTIFY_WEBHOOK_ENABLE_NOBODY"):
        bootstrap(foreign)


def test_a_wrong_root_key_fails_at_once_and_is_not_shown(fresh_deployment: Deployment) -> None:
    wrong = msgspec.structs.replace(fresh_deployment, s3_root_secret_key="not-the-secret-of-root")
    with pytest.raises(BootstrapError, match="ASSAY_S3_ROOT_ACCESS_KEY") as raised:
        bootstrap(wrong)
    assert wrong.s3_root_access_key not in str(raised.value)


def test_root_is_refused_as_the_service_identity(fresh_deployment: Deployment) -> None:
    with pytest.raises(BootstrapError, match="different key ids"):
        bootstrap(
            msgspec.structs.replace(
                fresh_deployment, s3_access_key=fresh_deployment.s3_root_access_key
            )
        )


def test_the_printed_instructions_name_everything_and_no_secret(
    fresh_deployment: Deployment,
) -> None:
    text = describe(fresh_deployment)
    for needed in (
        fresh_deployment.incoming_bucket,
        fresh_deployment.vault_bucket,
        fresh_deployment.webhook_arn,
        '"s3:PutObject"',
    ):
        assert needed in text
    assert "\nMINIO_API_CORS_ALLOW_ORIGIN=" in text
    for name in (
        "root_access_key",
        "root_secret_key",
        "access_key",
        "secret_key",
        "signer_access_key",
        "signer_secret_key",
    ):
        assert not re.search(
            re.escape(getattr(fresh_deployment, f"s3_{name}")), text + repr(fresh_deployment)
        ), name


@pytest.mark.skipif("minio" not in store_kinds(), reason="only MinIO has a region of its own")
def test_a_region_in_the_stores_arns_is_not_a_difference(
    fresh_folder: Path, fresh_identities: Deployment
) -> None:
    webhook = Webhook(endpoint=f"http://127.0.0.1:{free_port()}/webhooks/minio", token="token")
    with start_store(
        fresh_folder,
        binary=genuine_minio(),
        webhooks={"ASSAY": webhook},
        environment={"MINIO_SITE_REGION": "us-east-1"},
    ) as regional:
        deployment = msgspec.structs.replace(
            fresh_identities,
            s3_endpoint=regional.endpoint,
            s3_root_access_key=regional.root_access_key,
            s3_root_secret_key=regional.root_secret_key,
        )
        assert outcomes(deployment) == ["created"] * 8
        assert outcomes(deployment) == ["unchanged"] * 8


@pytest.fixture
def fresh_folder() -> Iterator[Path]:
    with reachable_folder() as folder:
        yield folder / "data"


@pytest.fixture
def fresh_identities() -> Deployment:
    return Deployment(
        s3_endpoint=Url(""),
        s3_region=REGION,
        s3_root_access_key=Secret(""),
        s3_root_secret_key=Secret(""),
        s3_access_key=Secret("service-regional"),
        s3_secret_key=Secret("service-secret"),
        s3_signer_access_key=Secret("signer-regional"),
        s3_signer_secret_key=Secret("signer-secret"),
        incoming_bucket=BucketName("incoming-regional"),
        vault_bucket=BucketName("vault-regional"),
        webhook_id="ASSAY",
    )
