"""The marker's object in the vault: a JSON document."""

from typing import Final
from uuid import UUID

import msgspec

from service.object_store import Bucket, ObjectMissing

MARKER_KEY: Final = "assay-marker"
"""The key of the object. Every other key in the vault is a UUID."""
MOST_BYTES: Final = 10_000
SECONDS: Final = 5.0


class Document(msgspec.Struct, frozen=True):
    """The marker as the vault has it."""

    deployment: UUID
    counter: int
    identity: str


class MarkerUnreadable(Exception):
    """A marker in the vault that is not a document of Assay."""


async def read_document(vault: Bucket) -> Document | None:
    """Return the document, or None if there is none. Raises MarkerUnreadable and StoreError."""
    try:
        _, body = await vault.get(MARKER_KEY, most_bytes=MOST_BYTES, timeout_seconds=SECONDS)
    except ObjectMissing:
        return None
    try:
        return msgspec.json.decode(body or b"", type=Document)
    except msgspec.MsgspecError as error:
        raise MarkerUnreadable(f"the object {MARKER_KEY} of the vault is not a marker") from error


async def write_document(vault: Bucket, document: Document) -> None:
    """Write the document. Raises StoreError."""
    await vault.put(
        MARKER_KEY,
        msgspec.json.encode(document),
        content_type="application/json",
        metadata={},
        tags={},
        timeout_seconds=SECONDS,
    )
