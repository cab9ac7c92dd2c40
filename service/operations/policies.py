"""The policies that a deployment needs, and the commands for an administrator who does not share
root's keys.
"""

import json
from collections.abc import Sequence
from typing import Any, Final

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
    identities = {
        deployment.signer_policy_name: (signer_policy(deployment.incoming_bucket), "S3_SIGNER"),
        deployment.service_policy_name: (
            service_policy(deployment.incoming_bucket, deployment.vault_bucket),
            "S3",
        ),
    }
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
                for name, (policy, prefix) in identities.items()
                for line in describe_identity(name, policy, prefix=prefix)
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


def describe_identity(policy_name: str, policy: Policy, *, prefix: str) -> list[str]:
    access_key, secret_key = f'"$ASSAY_{prefix}_ACCESS_KEY"', f'"$ASSAY_{prefix}_SECRET_KEY"'
    return [
        f"cat > {policy_name}.json <<'END'",
        json.dumps(policy, indent=2),
        "END",
        f"mc admin policy create assay {policy_name} {policy_name}.json",
        f"mc admin user add assay {access_key} {secret_key}",
        f"mc admin policy attach assay {policy_name} --user {access_key}",
    ]
