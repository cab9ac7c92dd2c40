"""Functions that put, read and copy one object."""

from service import clock
from service.model import File
from service.object_store import Bucket, ObjectReader, StoredCopy
from service.object_store.messages import Deadline, Request

MIB = 1024 * 1024


def put_object(bucket: Bucket, key: str, body: bytes, *, content_type: str = "text/plain") -> str:
    return bucket.put_now(
        key, body, content_type=content_type, metadata={}, tags={}, timeout_seconds=20
    )


def put_as_root(
    incoming: Bucket, key: str, body: bytes, *, content_type: str = "text/plain", **headers: str
) -> None:
    """Write an object as the store's root, with headers that no signed URL allows."""
    request = Request(
        "PUT", incoming.name, key, headers={"Content-Type": content_type, **headers}, body=body
    )
    incoming.client.send(request, Deadline(10))


def key_of(file: File) -> str:
    """Return the file's key in incoming. Raises AssertionError if the file was streamed."""
    assert file.incoming_key is not None, "a streamed file has no key in incoming"
    return file.incoming_key


def multipart_upload_of(file: File) -> tuple[str, str]:
    """Return the file's key in incoming and the id of its multipart upload at the store.

    Raises AssertionError if the file has no multipart upload.
    """
    assert file.upload_id is not None, "no multipart upload was begun for the file"
    return key_of(file), file.upload_id


def read_all(bucket: Bucket, key: str, *, etag: str | None = None) -> bytes:
    received = bytearray()
    with bucket.open(key, etag=etag) as reader:
        read_into(received, reader)
    return bytes(received)


def read_into(received: bytearray, reader: ObjectReader) -> None:
    """Append the object's bytes to `received`, which keeps the bytes read before an error."""
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
    """Copy the object `k` of incoming to `copied` in the vault, as a verification does."""
    return await vault.copy_from(
        incoming,
        "k",
        etag=etag,
        key="copied",
        content_type="application/pdf",
        metadata={"assay-file-id": "1", "assay-filename": "a%20b"},
        tags={"assay": "vault"},
        send_before=clock.read_seconds() + 20 if send_before is None else send_before,
        timeout_seconds=timeout_seconds,
    )
