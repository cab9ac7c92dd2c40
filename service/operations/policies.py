"""The identities and policies that a deployment needs, and the commands for an administrator who
does not share root's keys.
"""

import json
from collections.abc import Sequence
from typing import Any, Final

import msgspec

from service.object_store.administration import Policy
from service.settings import Deployment

ORPHAN_DAYS: Final = 30
"""The days after which an object in incoming expires.

It must not be less, because uploads may wait for workers.
"""
SERVICE_ACTIONS: Final = (
    "s3:GetObject",
    "s3:PutObject",
    "s3:DeleteObject",
    "s3:AbortMultipartUpload",
    "s3:ListMultipartUploadParts",
)
SERVICE_BUCKET_ACTIONS: Final = ("s3:ListBucket", "s3:ListBucketMultipartUploads")
RULE_ACTIONS: Final = ("s3:GetBucketNotification",)
"""The right with which the doctor can distinguish a missing rule from an unreachable webhook."""
RETENTION_ACTIONS: Final = ("s3:GetBucketVersioning", "s3:GetBucketObjectLockConfiguration")
"""The rights with which the doctor finds out whether a bucket keeps deleted objects."""


UNSIGNED_BODIES: Final = {"StringLike": {"s3:x-amz-content-sha256": ["STREAMING-*"]}}
"""Bodies in chunks with signatures or checksums of their own.

With `STREAMING-UNSIGNED-PAYLOAD-TRAILER`, an unpatched MinIO checks no signature at all
(CVE-2026-41145). It still checks the policy of the identity whose key id the request names. This
project never sends such a body.
"""


class Identity(msgspec.Struct, frozen=True, kw_only=True):
    """An identity of the store, its only policy, and the buckets that it can write to or read.

    `variable` is what the names of its settings begin with.
    """

    name: str
    variable: str
    access_key: str
    secret_key: str
    policy_name: str
    policy: Policy
    writes: tuple[str, ...] = ()
    reads: tuple[str, ...] = ()

    def __repr__(self) -> str:
        # The key id is a secret, like the secret key.
        return f"Identity({self.name})"


def list_identities(deployment: Deployment) -> list[Identity]:
    """Return the identities to create. The reader is one of them if its keys are set."""
    incoming, vault = deployment.incoming_bucket, deployment.vault_bucket
    signer = Identity(
        name="signer",
        variable="S3_SIGNER",
        access_key=deployment.s3_signer_access_key,
        secret_key=deployment.s3_signer_secret_key,
        policy_name=deployment.signer_policy_name,
        policy=signer_policy(incoming),
        writes=(incoming,),
    )
    service = Identity(
        name="service",
        variable="S3",
        access_key=deployment.s3_access_key,
        secret_key=deployment.s3_secret_key,
        policy_name=deployment.service_policy_name,
        policy=service_policy(incoming, vault),
        writes=(incoming, vault),
    )
    if deployment.s3_reader_access_key is None or deployment.s3_reader_secret_key is None:
        return [signer, service]
    reader = Identity(
        name="reader",
        variable="S3_READER",
        access_key=deployment.s3_reader_access_key,
        secret_key=deployment.s3_reader_secret_key,
        policy_name=deployment.reader_policy_name,
        policy=reader_policy(vault),
        reads=(vault,),
    )
    return [signer, service, reader]


def signer_policy(incoming_bucket: str) -> Policy:
    """Return the policy that allows PUT and nothing else.

    With `s3:GetObject`, the holder of a URL could copy any object that the signer may read.
    """
    policy = allow(("s3:PutObject",), [f"{incoming_bucket}/*"])
    policy["Statement"].append(deny_unsigned_bodies([incoming_bucket]))
    return policy


def service_policy(incoming_bucket: str, vault_bucket: str) -> Policy:
    policy = allow(SERVICE_ACTIONS, [f"{incoming_bucket}/*", f"{vault_bucket}/*"])
    bucket_actions = (*SERVICE_BUCKET_ACTIONS, *RETENTION_ACTIONS)
    policy["Statement"] += allow(bucket_actions, [incoming_bucket, vault_bucket])["Statement"]
    policy["Statement"] += allow(RULE_ACTIONS, [incoming_bucket])["Statement"]
    policy["Statement"].append(deny_unsigned_bodies([incoming_bucket, vault_bucket]))
    return policy


def reader_policy(vault_bucket: str) -> Policy:
    """Return the policy that allows GET of the vault's objects and nothing else."""
    return allow(("s3:GetObject",), [f"{vault_bucket}/*"])


def deny_unsigned_bodies(buckets: Sequence[str]) -> dict[str, Any]:
    resources = [f"arn:aws:s3:::{bucket}/*" for bucket in buckets]
    return {
        "Effect": "Deny",
        "Action": ["s3:PutObject"],
        "Resource": resources,
        "Condition": UNSIGNED_BODIES,
    }


def allow(actions: tuple[str, ...], resources: Sequence[str]) -> Policy:
    statement = {
        "Effect": "Allow",
        "Action": list(actions),
        "Resource": [f"arn:aws:s3:::{resource}" for resource in resources],
    }
    return {"Version": "2012-10-17", "Statement": [statement]}


def describe(deployment: Deployment) -> str:
    """Return policies, `mc` commands and `MINIO_*` lines for the store's administrator.

    The name of a variable stands in place of each secret.
    """
    return "\n".join(
        [
            "# 1. The store's environment. The queue needs a volume; the token must be one word.",
            *describe_environment(deployment.webhook_id),
            "",
            "# 2. Buckets, as root of the store. Run these commands with ASSAY_S3_* set.",
            f'mc alias set assay {deployment.s3_endpoint} "$ROOT_ACCESS_KEY" "$ROOT_SECRET_KEY"',
            *[
                f"mc mb --ignore-existing --region {deployment.s3_region} assay/{name}"
                for name in (deployment.incoming_bucket, deployment.vault_bucket)
            ],
            "",
            "# 3. Identities",
            *[
                line
                for identity in list_identities(deployment)
                for line in describe_identity(identity)
            ],
            "",
            "# 4. Events, and the expiry of objects that no row names",
            (
                f"mc event add --ignore-existing assay/{deployment.incoming_bucket}"
                f" {deployment.webhook_arn} --event put"
            ),
            f"mc ilm rule add assay/{deployment.incoming_bucket} --expire-days {ORPHAN_DAYS}",
        ]
    )


def describe_environment(webhook_id: str) -> list[str]:
    webhook = {
        "ENABLE": "on",
        "ENDPOINT": "http://ASSAY_HOST:8000/webhooks/minio",
        "AUTH_TOKEN": "<the value of ASSAY_WEBHOOK_TOKEN>",
        "QUEUE_DIR": "/var/lib/minio-events",
        "QUEUE_LIMIT": "100000",
    }
    lines = [f"MINIO_NOTIFY_WEBHOOK_{name}_{webhook_id}={value}" for name, value in webhook.items()]
    lines += [
        "MINIO_API_SYNC_EVENTS=on",
        "MINIO_SYNC_BOOT=on",
        "# twice ASSAY_UPLOAD_TTL:",
        "MINIO_API_STALE_UPLOADS_EXPIRY=48h",
    ]
    pages = (
        "# pages that upload: the origins of ASSAY_PUBLIC_URL and ASSAY_CORS_ORIGINS,"
        " separated by commas:"
    )
    return [*lines, pages, "MINIO_API_CORS_ALLOW_ORIGIN=https://files.example.com"]


def describe_identity(identity: Identity) -> list[str]:
    name, variable = identity.policy_name, identity.variable
    access_key, secret_key = f'"$ASSAY_{variable}_ACCESS_KEY"', f'"$ASSAY_{variable}_SECRET_KEY"'
    return [
        f"cat > {name}.json <<'END'",
        json.dumps(identity.policy, indent=2),
        "END",
        f"mc admin policy create assay {name} {name}.json",
        f"mc admin user add assay {access_key} {secret_key}",
        f"mc admin policy attach assay {name} --user {access_key}",
    ]
