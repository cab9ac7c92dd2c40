"""The preparation of a store: two buckets, two or three identities, one event rule, one lifecycle
rule.

Bootstrap creates what is missing and corrects what differs. It can run repeatedly, and twice at the
same time. Other rules and identities are not changed. Only this module uses the keys of the store's
root.
"""

import hashlib
import time
from collections.abc import Callable, Iterator
from typing import Any, Final

from service.object_store import (
    ObjectMissing,
    ObjectStore,
    RequestRefused,
    StoreError,
    StoreUnavailable,
)
from service.object_store.administration import Administration, EventRule, Policy
from service.operations.policies import ORPHAN_DAYS, Identity, describe, list_identities
from service.operations.retention import advise_on, find_retention
from service.operations.steps import BootstrapError, Outcome, Step
from service.settings import Deployment

START_SECONDS: Final = 30.0
"""The time limit for a store to start, and for a change of rights to take effect."""
TARGET_SECONDS: Final = 5.0
"""The time limit for a store that has just started to activate its own webhook."""
PAUSE_SECONDS: Final = 0.25
ORPHAN_RULE: Final = "assay-orphans"
CREATED_EVENTS: Final = "s3:ObjectCreated:*"
FOREIGN_KEY_CODES: Final = frozenset({"InvalidAccessKeyId", "SignatureDoesNotMatch"})
PROBE_KEY: Final = "assay-bootstrap-probe"
__all__ = ["BootstrapError", "Deployment", "Step", "bootstrap", "describe"]


def bootstrap(deployment: Deployment) -> list[Step]:
    """Prepare the store, and return the steps. Raises BootstrapError.

    The call blocks, for several seconds if the store is just starting.
    """
    check_identities_differ(deployment)
    administration = Administration(
        deployment.s3_endpoint,
        access_key=deployment.s3_root_access_key,
        secret_key=deployment.s3_root_secret_key,
        region=deployment.s3_region,
    )
    try:
        wait_for_store(administration)
        return list(take_steps(administration, deployment))
    except StoreError as error:
        raise BootstrapError(f"a request to the store failed: {error}") from error
    finally:
        administration.close()


def check_identities_differ(deployment: Deployment) -> None:
    ids = [identity.access_key for identity in list_identities(deployment)]
    ids.append(deployment.s3_root_access_key)
    if len(set(ids)) < len(ids) or "" in ids:
        raise BootstrapError(
            "root, the service identity, the signer and the reader must have different key ids,"
            " because every upload URL shows the signer's"
        )


def take_steps(administration: Administration, deployment: Deployment) -> Iterator[Step]:
    for field in ("incoming_bucket", "vault_bucket"):
        bucket = getattr(deployment, field)
        outcome = ensure_bucket(administration, bucket)
        check_retention(administration, bucket, setting=f"ASSAY_{field.upper()}")
        yield Step(f"bucket {bucket}", outcome)
    identities = list_identities(deployment)
    for identity in identities:
        outcome = ensure_policy(administration, identity.policy_name, identity.policy)
        yield Step(f"policy {identity.policy_name}", outcome)
    for identity in identities:
        outcome = ensure_identity(administration, deployment, identity)
        yield Step(f"{identity.name} identity", outcome)
    yield Step(
        f"events of {deployment.incoming_bucket} to {deployment.webhook_arn}",
        ensure_event_rule(administration, deployment),
    )
    yield Step(
        f"lifecycle of {deployment.incoming_bucket}: objects expire after {ORPHAN_DAYS} days",
        ensure_orphan_rule(administration, deployment.incoming_bucket),
    )


def wait_for_store(administration: Administration) -> None:
    """Wait until the store can serve requests. Raises BootstrapError.

    If the store rejects root's key, the error is raised at once. Any other failure may be that of a
    store that is still starting.
    """

    def try_store() -> bool:
        try:
            administration.check()
        except StoreUnavailable as error:
            if error.status in (401, 403):
                raise BootstrapError(
                    f"the store does not accept root's key ({error.code}):"
                    " check ASSAY_S3_ROOT_ACCESS_KEY and …_SECRET_KEY"
                ) from error
            return False
        return True

    if not wait_until(try_store, seconds=START_SECONDS):
        raise BootstrapError(
            f"the store did not answer within {START_SECONDS:.0f} s:"
            " check that it runs and that ASSAY_S3_ENDPOINT is correct"
        )


def wait_until(condition: Callable[[], bool], *, seconds: float) -> bool:
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() >= end:
            return False
        time.sleep(PAUSE_SECONDS)
    return True


def ensure_bucket(administration: Administration, name: str) -> Outcome:
    if administration.bucket_exists(name):
        return "unchanged"
    try:
        administration.make_bucket(name)
    except StoreError as error:
        if error.code == "BucketAlreadyOwnedByYou":  # another bootstrap created it first
            return "unchanged"
        raise
    return "created"


def check_retention(administration: Administration, bucket: str, *, setting: str) -> None:
    """Check that the bucket does not keep deleted objects. Raises BootstrapError.

    A store that does not implement the question is accepted, and `assay doctor` says so.
    """
    try:
        kept = find_retention(administration, bucket)
    except RequestRefused as error:
        if error.status != 501:
            raise
        return
    if kept is not None:
        raise BootstrapError(f"{kept}: {advise_on(bucket, setting)}")


def ensure_policy(administration: Administration, name: str, policy: Policy) -> Outcome:
    found = administration.policy(name)
    if found is not None and comparable(found) == comparable(policy):
        return "unchanged"
    administration.put_policy(name, policy)
    return "created" if found is None else "corrected"


def ensure_identity(
    administration: Administration, deployment: Deployment, identity: Identity
) -> Outcome:
    """Create or correct an identity, and wait until it can use its rights.

    Raises BootstrapError.
    """
    found = administration.identity(identity.access_key)
    if found is not None and found.groups:
        raise BootstrapError(
            f"the identity with the policy {identity.policy_name} belongs to groups, which give it"
            " more rights: remove it from them"
        )
    outcome: Outcome = "created" if found is None else "unchanged"
    store = ObjectStore(
        deployment.s3_endpoint,
        access_key=identity.access_key,
        secret_key=identity.secret_key,
        region=deployment.s3_region,
    )
    try:
        if found is None or not found.enabled or probe(store, identity) in FOREIGN_KEY_CODES:
            administration.put_identity(identity.access_key, identity.secret_key)
            outcome = "created" if found is None else "corrected"
        if found is None or found.policies != {identity.policy_name}:
            administration.set_policy(identity.access_key, identity.policy_name)
            outcome = "created" if found is None else "corrected"
        if not wait_until(lambda: probe(store, identity) is None, seconds=START_SECONDS):
            raise BootstrapError(
                f"the identity with the policy {identity.policy_name} cannot use its rights after"
                f" {START_SECONDS:.0f} s"
            )
    finally:
        store.close()
    return outcome


def probe(store: ObjectStore, identity: Identity) -> str | None:
    """Return None if the identity can use all of its buckets, or else the store's first error code.

    `store` accesses the store as this identity.
    """
    codes = [probe_write(store, bucket) for bucket in identity.writes]
    codes += [probe_read(store, bucket) for bucket in identity.reads]
    return next((code for code in codes if code is not None), None)


def probe_read(store: ObjectStore, bucket: str) -> str | None:
    """Return None if this identity may read the bucket, or else the store's error code."""
    try:
        store.bucket(bucket).open(PROBE_KEY, etag=None).close()
    except ObjectMissing:
        return None
    except StoreUnavailable as error:
        return error.code or "unavailable"
    return None


def probe_write(store: ObjectStore, bucket: str) -> str | None:
    """Return None if this identity may write to the bucket, or else the store's error code.

    The request announces the digest of another body. The store checks the rights first, and then
    stores nothing, so that there is no event either.
    """
    digest_of_nothing = hashlib.sha256().hexdigest()
    try:
        store.bucket(bucket).put_now(
            PROBE_KEY,
            b"-",
            content_type="text/plain",
            metadata={},
            tags={},
            sha256=digest_of_nothing,
            timeout_seconds=10,
        )
    except RequestRefused:
        return None
    except StoreUnavailable as error:
        return error.code or "unavailable"
    raise BootstrapError(
        "the store does not check an upload's SHA-256, so it cannot enforce upload URLs;"
        " use MinIO or a fork of it"
    )


def ensure_event_rule(administration: Administration, deployment: Deployment) -> Outcome:
    rule = EventRule(arn=deployment.webhook_arn, events=frozenset({CREATED_EVENTS}))
    found = [
        other
        for other in administration.event_rules(deployment.incoming_bucket)
        if other.arn == rule.arn
    ]
    if found == [rule]:
        return "unchanged"

    def try_rule() -> bool:
        try:
            administration.replace_event_rule(deployment.incoming_bucket, rule)
        except RequestRefused:
            return False
        return True

    if not wait_until(try_rule, seconds=TARGET_SECONDS):
        raise BootstrapError(
            f"the store has no target {rule.arn}: start it with"
            f" MINIO_NOTIFY_WEBHOOK_ENABLE_{deployment.webhook_id}=on and with …_ENDPOINT,"
            " …_AUTH_TOKEN and …_QUEUE_DIR (one malformed target disables all; its log says which)"
        )
    return "corrected" if found else "created"


def ensure_orphan_rule(administration: Administration, bucket: str) -> Outcome:
    try:
        found = administration.expiry_days(bucket, ORPHAN_RULE)
        if found == ORPHAN_DAYS:
            return "unchanged"
        administration.put_expiry(bucket, ORPHAN_RULE, days=ORPHAN_DAYS)
    except RequestRefused as error:
        if error.status != 501:
            raise
        return "not available"  # such objects then stay until an administrator removes them
    return "created" if found is None else "corrected"


def comparable(policy: Policy) -> Any:
    """Return the policy with sorted lists, because a store returns actions and resources in its own
    order.
    """
    if isinstance(policy, dict):
        return {name: comparable(value) for name, value in policy.items()}
    if isinstance(policy, list):
        return sorted((comparable(value) for value in policy), key=repr)
    return policy
