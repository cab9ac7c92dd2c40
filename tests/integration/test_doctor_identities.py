"""The doctor's checks of both identities: too few rights, too many rights, and wrong keys."""

from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
from minio import Minio
from minio.error import S3Error

from service.object_store import StoreUnavailable
from service.object_store.administration import Administration, Policy
from service.operations.bootstrap import bootstrap
from service.operations.doctor import events
from service.operations.doctor.identities import (
    check_key_ids,
    check_service_identity,
    check_service_rights,
    check_signer,
)
from service.operations.doctor.probes import probe_object
from service.operations.policies import SERVICE_ACTIONS, SERVICE_BUCKET_ACTIONS, allow
from service.resources import Resources
from service.settings import Deployment, Secret, Settings
from tests.support.examining import changed, examine_all, failures
from tests.support.faults import FaultyBucket
from tests.support.invariants import list_bucket
from tests.support.stores import root_sdk

pytestmark = [pytest.mark.anyio, pytest.mark.own_deployment]

RANDOM = Secret("3f9ac27be1d05486a7c1")
NEEDED = [*SERVICE_ACTIONS, "s3:ListBucket"]


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """Do not wait for events, because no webhook receives them here."""
    monkeypatch.setattr(events, "EVENT_SECONDS", 0.0)


@pytest.fixture
def administration(deployment: Deployment) -> Iterator[Administration]:
    root = (deployment.s3_root_access_key, deployment.s3_root_secret_key)
    opened = Administration(
        deployment.s3_endpoint, access_key=root[0], secret_key=root[1], region=deployment.s3_region
    )
    yield opened
    opened.close()


def narrowed(deployment: Deployment, missing: str) -> Policy:
    """Return the policy of the service identity without the action `missing`."""
    buckets = [deployment.incoming_bucket, deployment.vault_bucket]
    actions = tuple(action for action in SERVICE_ACTIONS if action != missing)
    policy = allow(actions, [f"{bucket}/*" for bucket in buckets])
    policy["Statement"] += allow(
        tuple(action for action in SERVICE_BUCKET_ACTIONS if action != missing), buckets
    )["Statement"]
    return policy


def read_store(administration: Administration, deployment: Deployment) -> Any:
    """Return what a permitted attempt might change: the buckets, their policies and event rules."""
    root, buckets = root_sdk(deployment), (deployment.incoming_bucket, deployment.vault_bucket)
    names = {bucket.name for bucket in root.list_buckets()}
    return (
        names,
        [administration.event_rules(bucket) for bucket in buckets],
        [policy_of(root, bucket) for bucket in buckets],
    )


def policy_of(root: Minio, bucket: str) -> str:
    try:
        return root.get_bucket_policy(bucket)
    except S3Error as error:
        return error.code or ""


async def wait_until_not_ok(check: Any, resources: Resources) -> None:
    """Wait until the check finds a fault.

    A change of rights does not always take effect at once.
    """

    async def took_effect() -> bool:
        (finding,) = await check(resources)
        return bool(finding.status != "ok")

    assert await events.wait_for(took_effect, seconds=20)


@pytest.mark.parametrize(
    "changes", [{"s3_secret_key": Secret("another-secret-entirely")}, {"s3_access_key": RANDOM}]
)
async def test_a_wrong_key_fails_the_identity_and_not_the_endpoint(
    settings: Settings, changes: Any
) -> None:
    async with changed(settings, **changes) as resources:
        found = await examine_all(resources)
    assert failures(found) == {"service identity"}
    assert found["endpoint"].status == "ok"
    assert "ASSAY_S3_ACCESS_KEY" in found["service identity"].advice
    assert not any(
        secret in finding.what for finding in found.values() for secret in settings.secrets()
    )
    # Checks that depend on the identity are skipped, because they would only repeat its failure.
    assert not any(name.startswith(("URL", "event", "signer", "public")) for name in found)


async def test_a_service_identity_with_too_few_rights_is_found(
    resources: Resources, deployment: Deployment, administration: Administration
) -> None:
    for missing in NEEDED:
        administration.put_policy(deployment.service_policy_name, narrowed(deployment, missing))
        await wait_until_not_ok(check_service_identity, resources)
        (finding,) = await check_service_identity(resources)
        assert finding.status == "failed"
        assert "403" in finding.what
        assert "assay bootstrap" in finding.advice
        bootstrap(deployment)
        assert [finding.status for finding in await check_service_identity(resources)] == ["ok"], (
            missing
        )


async def test_every_operation_of_the_service_identity_is_tried(resources: Resources) -> None:
    for call in ("copy_from", "complete_upload", "list_parts", "abort_upload"):
        vault = FaultyBucket(resources.vault)
        vault.before[call] = fail
        (finding,) = await check_service_identity(msgspec.structs.replace(resources, vault=vault))
        assert "not today" in finding.what


async def fail() -> None:
    raise StoreUnavailable("not today")


@pytest.mark.parametrize("everywhere", [True, False])
async def test_a_service_identity_with_too_many_rights_is_found(
    resources: Resources, deployment: Deployment, administration: Administration, everywhere: bool
) -> None:
    own = [deployment.incoming_bucket, deployment.vault_bucket]
    scope = ["*"] if everywhere else [*own, *[f"{bucket}/*" for bucket in own]]
    administration.put_policy(deployment.service_policy_name, allow(("s3:*",), scope))
    await wait_until_not_ok(check_service_rights, resources)
    before = read_store(administration, deployment)
    (finding,) = await check_service_rights(resources)
    assert finding.status == "failed"
    assert "make buckets, read the buckets' policies, change" in finding.what
    assert ("write to other buckets" in finding.what) == everywhere
    assert "administer" not in finding.what
    assert read_store(administration, deployment) == before


async def test_root_keys_used_as_the_service_identity_are_found(
    settings: Settings, deployment: Deployment, administration: Administration
) -> None:
    root = {
        "s3_access_key": Secret(deployment.s3_root_access_key),
        "s3_secret_key": Secret(deployment.s3_root_secret_key),
    }
    before = read_store(administration, deployment)
    async with changed(settings, **root) as resources:
        found = await examine_all(resources)
        assert await list_bucket(resources.vault) == set()
    assert "service identity: rights" in failures(found)
    assert "administer the store" in found["service identity: rights"].what
    assert found["service identity"].status == "ok"
    assert read_store(administration, deployment) == before


async def test_a_signer_with_too_many_rights_is_found(
    resources: Resources, deployment: Deployment, administration: Administration
) -> None:
    administration.set_policy(deployment.s3_signer_access_key, deployment.service_policy_name)
    await wait_until_not_ok(check_signer, resources)
    (finding,) = await check_signer(resources)
    assert finding.status == "failed"
    assert "write to the vault" in finding.what
    assert "assay bootstrap" in finding.advice


async def test_a_signer_that_reaches_beyond_both_buckets_is_found(
    resources: Resources, deployment: Deployment, administration: Administration
) -> None:
    policy = allow(("s3:PutObject",), ["*"])
    administration.put_policy(deployment.signer_policy_name, policy)
    await wait_until_not_ok(check_signer, resources)
    (finding,) = await check_signer(resources)
    assert finding.what == "it may also write to the vault, write to other buckets"


async def test_a_signer_that_may_not_write_to_incoming_is_found(
    resources: Resources, deployment: Deployment, administration: Administration
) -> None:
    administration.put_policy(
        deployment.signer_policy_name, allow(("s3:GetObject",), [f"{deployment.incoming_bucket}/*"])
    )
    await wait_until_not_ok(check_signer, resources)
    (finding,) = await check_signer(resources)
    assert "it may not put to incoming" in finding.what


async def test_key_ids_that_are_easy_to_guess_or_visible_are_found(settings: Settings) -> None:
    async with changed(settings, s3_access_key=Secret("assay-service-production")) as resources:
        (guessed,) = await check_key_ids(resources)
    async with changed(settings, s3_access_key=RANDOM, s3_signer_access_key=RANDOM) as resources:
        (shown,) = await check_key_ids(resources)
    async with changed(settings, s3_access_key=RANDOM) as resources:
        (hidden,) = await check_key_ids(resources)
    assert [guessed.status, shown.status, hidden.status] == ["failed", "failed", "ok"]
    assert "every upload URL shows" in shown.what


async def test_a_probe_whose_response_was_lost_is_removed(resources: Resources) -> None:
    async def lose() -> None:
        raise StoreUnavailable("no response was received in time")

    bucket = FaultyBucket(resources.vault)
    bucket.after["put"] = lose
    with pytest.raises(StoreUnavailable, match="no response was received"):
        async with probe_object(bucket):  # type: ignore[arg-type] # it passes everything else on
            pytest.fail("there is no such object")
    assert await list_bucket(resources.vault) == set()
