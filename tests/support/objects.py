"""Short ways to put, read and copy an object."""

import time

from service.object_store import Bucket, ObjectReader, StoredCopy

MIB = 1024 * 1024


def put(bucket: Bucket, key: str, body: bytes, *, content_type: str = "text/plain") -> str:
    return bucket.put_now(
        key, body, content_type=content_type, metadata={}, tags={}, timeout_seconds=20
    )


def read_all(bucket: Bucket, key: str, *, etag: str | None = None) -> bytes:
    received = bytearray()
    with bucket.open(key, etag=etag) as reader:
        read_into(received, reader)
    return bytes(received)


def read_into(received: bytearray, reader: ObjectReader) -> None:
    """Also keeps what came before an error."""
    while piece := reader.read(100_000):
        received += piece


async def copy(
    incoming: Bucket,
    vault: Bucket,
    etag: str,
    *,
    send_before: float | None = None,
    timeout_seconds: float = 20,
) -> StoredCopy:
    """The object `k` of incoming to `copied` in the vault, in the way of a verification."""
    return await vault.copy_from(
        incoming,
        "k",
        etag=etag,
        key="copied",
        content_type="application/pdf",
        metadata={"assay-file-id": "1", "assay-filename": "a%20b"},
        tags={"assay": "vault"},
        send_before=time.monotonic() + 20 if send_before is None else send_before,
        timeout_seconds=timeout_seconds,
    )
