"""Versioning and object lock of a bucket, which keep the bytes of deleted objects readable.

A DELETE without a version id then adds a marker, and every earlier version can still be read by its
id. Neither can be removed from a bucket. Suspended versioning keeps the versions that exist.
"""

from typing import Final

from service.object_store.administration import Administration

ADVICE: Final = (
    "create a bucket without versioning and object lock, and set {setting} to its name, because"
    ' neither can be removed from a bucket (docs/deployment.md, "Buckets without versions", says'
    " how); then remove the old bucket's noncurrent versions:"
    " `mc rm --recursive --force --versions STORE/{bucket}`"
)


def find_retention(administration: Administration, bucket: str) -> str | None:
    """Return what keeps deleted objects of the bucket, or None if nothing does.

    Raises RequestRefused with the status 501 if the store does not implement versioning.
    """
    versioning = administration.versioning(bucket)
    if administration.has_object_lock(bucket):
        kept = "object lock is enabled"
    elif versioning is not None:
        kept = f"versioning is {versioning.lower()}"
    else:
        return None
    return f"{kept} on {bucket}, so the bytes of deleted files may still be readable by version id"


def advise_on(bucket: str, setting: str) -> str:
    return ADVICE.format(bucket=bucket, setting=setting)
