"""The rights that neither identity of Assay may have.

Each attempt needs one right, and changes nothing even if it is allowed.
"""

import asyncio
from collections.abc import Mapping
from datetime import UTC, datetime

import msgspec

from service.object_store import StoreError, StoreUnavailable
from service.object_store.administration import Administration
from service.object_store.presign import Signer
from service.operations.doctor.anonymous_requests import send
from service.operations.doctor.probes import URL_SECONDS, new_key
from service.settings import Settings


class Attempt(msgspec.Struct, frozen=True):
    """An attempt.

    `name` says what would be allowed. Without `key`, the request is for the bucket itself.
    """

    name: str
    method: str
    bucket: str
    key: str | None = None
    query: Mapping[str, str] = {}
    body: bytes = b""


def list_attempts(settings: Settings) -> list[Attempt]:
    """Return attempts on Assay's buckets that fail in any case, and attempts on a bucket that does
    not exist.
    """
    other = new_key()
    attempts = [
        Attempt("remove buckets", "DELETE", other),
        Attempt("list other buckets", "GET", other, query={"list-type": "2"}),
        Attempt("read other buckets", "GET", other, "key"),
        Attempt("write to other buckets", "PUT", other, "key"),
    ]
    for own in (settings.incoming_bucket, settings.vault_bucket):
        attempts += [
            Attempt("make buckets", "PUT", own),  # the bucket exists already
            Attempt("read the buckets' policies", "GET", own, query={"policy": ""}),
            Attempt(
                "change the buckets' policies", "PUT", own, query={"policy": ""}, body=b"{"
            ),  # not JSON
            Attempt(
                "change the buckets' event rules", "PUT", own, query={"notification": ""}, body=b"<"
            ),  # not XML
        ]
    return attempts


async def list_excess(settings: Settings, access_key: str, *, secret_key: str) -> list[str]:
    """Return the names of the rights that this identity has and should not have.

    Raises StoreUnavailable.

    Both buckets must exist.
    """
    signer = Signer(
        settings.s3_endpoint,
        access_key=access_key,
        secret_key=secret_key,
        region=settings.s3_region,
    )
    found = [
        attempt.name for attempt in list_attempts(settings) if await is_allowed(signer, attempt)
    ]
    if await asyncio.to_thread(administers, settings, access_key, secret_key=secret_key):
        found.append("administer the store")
    return list(dict.fromkeys(found))


async def is_allowed(signer: Signer, attempt: Attempt) -> bool:
    """Return whether the store allows the attempt.

    It checks rights first, so that any refusal but 401 and 403 means that they suffice.
    """
    bucket, key = (None, attempt.bucket) if attempt.key is None else (attempt.bucket, attempt.key)
    url = signer.presign(
        attempt.method,
        bucket,
        key=key,
        issued_at=datetime.now(UTC),
        expires_in_seconds=URL_SECONDS,
        query=attempt.query,
    )
    answer = await send(attempt.method, url, body=attempt.body)
    if not (answer.refuses or 200 <= answer.status < 300):
        raise StoreUnavailable(
            f"on the attempt to {attempt.name}, the store answered {answer.status}",
            status=answer.status,
        )
    return answer.status not in (401, 403)


def administers(settings: Settings, access_key: str, *, secret_key: str) -> bool:
    """Return whether the identity can administer the store, in the calling thread.

    The request reads a policy that every MinIO has. A store without this administration answers 404
    or 501.
    """
    administration = Administration(
        settings.s3_endpoint,
        access_key=access_key,
        secret_key=secret_key,
        region=settings.s3_region,
    )
    try:
        administration.policy("readwrite")
    except StoreError as error:
        if error.status in (401, 403, 404, 501):
            return False
        raise
    finally:
        administration.close()
    return True
