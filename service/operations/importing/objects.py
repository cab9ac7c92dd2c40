"""The objects of a prefix, as files of one owner.

The last segment of a key is the name of the file. The metadata of the file has what follows the
prefix as `path`, and the time of the object as `mtime`, as for a folder that `assay put` sends.
"""

import hashlib
from collections.abc import AsyncIterator
from datetime import datetime
from uuid import UUID

from service.files.validation import check_filename, check_metadata
from service.object_store import Bucket
from service.object_store.objects import ListedObject
from service.operations.importing.candidates import Candidate, Skipped, name_origin
from service.problems import InvalidRequest
from service.queries.importing import ImportedFile


async def list_candidates(
    source: Bucket, prefix: str, *, owner: str
) -> AsyncIterator[Candidate | Skipped]:
    """Yield every object of the prefix in the order of keys. Raises StoreError."""
    async for listed in source.list_keys(prefix):
        if not (listed.key.endswith("/") and listed.size == 0):  # it stands for an empty folder
            yield describe_object(source.name, listed, prefix=prefix, owner=owner)


def describe_object(
    bucket: str, listed: ListedObject, *, prefix: str, owner: str
) -> Candidate | Skipped:
    path = listed.key[prefix.rfind("/") + 1 :]
    metadata = {"path": path, "mtime": f"{listed.last_modified.timestamp():.9f}"}
    try:
        filename = check_filename(path.rpartition("/")[2])
        check_metadata(metadata)
    except InvalidRequest as error:
        return Skipped(listed.key, f"its name is not that of a file: {error}")
    file = ImportedFile(
        id=make_id(bucket, listed, owner=owner),
        owner=owner,
        filename=filename,
        size=listed.size,
        content_type=None,
        declared_sha256=None,
        metadata=metadata,
        why=name_origin(bucket, listed.key),
    )
    return Candidate(listed.key, listed.etag, file, has_type=False)


def make_id(bucket: str, listed: ListedObject, *, owner: str) -> UUID:
    """Return the same UUIDv7 for the same object and owner.

    Its time is that of the object, so that lists have the newest objects first.
    """
    name = "\0".join((bucket, listed.key, listed.etag, owner))
    return make_uuid(listed.last_modified, hashlib.sha256(name.encode()).digest())


def make_uuid(moment: datetime, digest: bytes) -> UUID:
    """Return a UUIDv7 (RFC 9562, section 5.7) whose random bits come from the digest."""
    milliseconds = max(0, int(moment.timestamp() * 1000)) & (1 << 48) - 1
    number = milliseconds << 80 | int.from_bytes(digest[:10], "big")
    number = number & ~(0xF << 76) | 0x7 << 76
    return UUID(int=number & ~(0x3 << 62) | 0x2 << 62)
