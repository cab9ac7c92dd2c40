"""Buckets that keep deleted objects are refused by bootstrap and reported by the doctor."""

import io

import minio
import pytest
from minio.error import S3Error
from minio.versioningconfig import VersioningConfig

from service.object_store.administration import Administration
from service.operations.bootstrap import BootstrapError, bootstrap
from service.operations.doctor import events
from service.operations.doctor.versions import check_versions
from service.operations.policies import (
    SERVICE_ACTIONS,
    SERVICE_BUCKET_ACTIONS,
    allow,
)
from service.resources import Resources
from service.settings import Deployment
from tests.support.examining import examine_all, failures, statuses
from tests.support.stores import StoreUnderTest, root_sdk

pytestmark = [pytest.mark.anyio, pytest.mark.own_deployment]

BUCKETS = ["incoming_bucket", "vault_bucket"]
NAMES = {"incoming_bucket": "versions: incoming", "vault_bucket": "versions: vault"}


@pytest.fixture
def sdk(store: StoreUnderTest, fresh_deployment: Deployment) -> minio.Minio:
    """Return the SDK for a store that has versioning."""
    if store.kind == "embedded":
        pytest.skip("the store has neither versioning nor object lock")
    return root_sdk(fresh_deployment)


def set_versioning(sdk: minio.Minio, bucket: str, status: str) -> None:
    """Enable versioning, and suspend it again if `status` says so."""
    sdk.set_bucket_versioning(bucket, VersioningConfig("Enabled"))
    sdk.set_bucket_versioning(bucket, VersioningConfig(status))


def read_deleted(sdk: minio.Minio, bucket: str) -> bytes:
    """Store an object, delete it, and read what can still be read of it."""
    stored = sdk.put_object(bucket, "key", io.BytesIO(b"secret"), 6)
    sdk.remove_object(bucket, "key")
    return sdk.get_object(bucket, "key", version_id=stored.version_id).read()


@pytest.mark.parametrize("status", ["Enabled", "Suspended"])
@pytest.mark.parametrize("field", BUCKETS)
async def test_a_versioned_bucket_is_refused_and_reported(
    sdk: minio.Minio, deployment: Deployment, resources: Resources, field: str, status: str
) -> None:
    bucket = getattr(deployment, field)
    assert statuses(await check_versions(resources)) == dict.fromkeys(NAMES.values(), "ok")
    set_versioning(sdk, bucket, status)
    if status == "Enabled":
        assert read_deleted(sdk, bucket) == b"secret"  # the reason for the refusal
    found = {finding.name: finding for finding in await check_versions(resources)}
    assert {name for name in found if found[name].status == "failed"} == {NAMES[field]}
    finding = found[NAMES[field]]
    assert f"versioning is {status.lower()} on {bucket}" in finding.what
    with pytest.raises(BootstrapError) as refused:
        bootstrap(deployment)
    assert str(refused.value) == f"{finding.what}: {finding.advice}"
    assert f"set ASSAY_{field.upper()} to its name" in finding.advice
    assert "noncurrent versions" in finding.advice
    assert f"--versions STORE/{bucket}" in finding.advice


@pytest.mark.parametrize("field", BUCKETS)
async def test_a_bucket_with_object_lock_is_refused_before_anything_is_created(
    sdk: minio.Minio, fresh_deployment: Deployment, field: str
) -> None:
    locked = getattr(fresh_deployment, field)
    sdk.make_bucket(locked, object_lock=True)
    with pytest.raises(BootstrapError, match=f"object lock is enabled on {locked}"):
        bootstrap(fresh_deployment)
    administration = Administration(
        fresh_deployment.s3_endpoint,
        access_key=fresh_deployment.s3_root_access_key,
        secret_key=fresh_deployment.s3_root_secret_key,
        region=fresh_deployment.s3_region,
    )
    try:
        assert administration.identity(fresh_deployment.s3_access_key) is None
    finally:
        administration.close()


async def test_the_doctor_reports_a_bucket_that_got_versions_later(
    sdk: minio.Minio, deployment: Deployment, resources: Resources, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(events, "EVENT_SECONDS", 0.0)  # no webhook receives them here
    set_versioning(sdk, deployment.vault_bucket, "Suspended")
    assert failures(await examine_all(resources)) == {"versions: vault"}


async def test_a_missing_right_to_read_the_configuration_is_reported(
    sdk: minio.Minio, deployment: Deployment, resources: Resources
) -> None:
    """Use the policy of an earlier version, which lacks these rights."""
    del sdk
    buckets = [deployment.incoming_bucket, deployment.vault_bucket]
    policy = allow(SERVICE_ACTIONS, [f"{bucket}/*" for bucket in buckets])
    policy["Statement"] += allow(SERVICE_BUCKET_ACTIONS, buckets)["Statement"]
    administration = Administration(
        deployment.s3_endpoint,
        access_key=deployment.s3_root_access_key,
        secret_key=deployment.s3_root_secret_key,
        region=deployment.s3_region,
    )
    try:
        administration.put_policy(deployment.service_policy_name, policy)
    finally:
        administration.close()
    found = await check_versions(resources)
    assert statuses(found) == dict.fromkeys(NAMES.values(), "warning")
    assert all("assay bootstrap" in finding.advice for finding in found)


async def test_a_store_without_versioning_is_reported_as_such(
    store: StoreUnderTest, deployment: Deployment, resources: Resources
) -> None:
    if store.kind != "embedded":
        pytest.skip("the store has versioning")
    found = await check_versions(resources)
    assert statuses(found) == dict.fromkeys(NAMES.values(), "skipped")
    assert all("501" in finding.what for finding in found)
    sdk = root_sdk(deployment)
    with pytest.raises(S3Error, match="NotImplemented"):
        sdk.set_bucket_versioning(deployment.vault_bucket, VersioningConfig("Enabled"))
    stored = sdk.put_object(deployment.vault_bucket, "key", io.BytesIO(b"secret"), 6)
    assert stored.version_id is None
    sdk.remove_object(deployment.vault_bucket, "key")
