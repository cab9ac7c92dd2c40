"""The check that both buckets keep no versions of deleted objects."""

import asyncio
from typing import Final

from service.object_store import RequestRefused, StoreUnavailable
from service.object_store.administration import Administration
from service.operations.doctor.finding import Finding, failed, ok, skipped, warning
from service.operations.retention import advise_on, find_retention
from service.resources import Resources

SETTINGS: Final = {
    "incoming_bucket": "versions: incoming",
    "vault_bucket": "versions: vault",
}


async def check_versions(resources: Resources) -> list[Finding]:
    return await asyncio.to_thread(read_versions, resources)


def read_versions(resources: Resources) -> list[Finding]:
    settings = resources.settings
    administration = Administration(
        settings.s3_endpoint,
        access_key=settings.s3_access_key,
        secret_key=settings.s3_secret_key,
        region=settings.s3_region,
    )
    try:
        return [
            judge_bucket(administration, name, getattr(settings, field), field=field)
            for field, name in SETTINGS.items()
        ]
    finally:
        administration.close()


def judge_bucket(administration: Administration, name: str, bucket: str, *, field: str) -> Finding:
    try:
        kept = find_retention(administration, bucket)
    except RequestRefused as error:
        if error.status != 501:
            raise
        return skipped(name, "the store does not implement the requests that would show them (501)")
    except StoreUnavailable as error:
        if error.status != 403:
            raise
        return warning(
            name,
            f"the service identity may not read whether {bucket} keeps versions",
            "run `assay bootstrap`, which corrects its policy",
        )
    if kept is None:
        return ok(name, f"{bucket} has neither versioning nor object lock")
    return failed(name, kept, advise_on(bucket, f"ASSAY_{field.upper()}"))
