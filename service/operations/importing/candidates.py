"""What an import lists before it copies: objects, and the files to make from them."""

import msgspec

from service.queries.importing import ImportedFile


class Candidate(msgspec.Struct, frozen=True):
    """An object of the source, and the file to make from it.

    `etag` is None if any object under the key is meant. If `has_type` is false, the file gets the
    content type of the object.
    """

    key: str
    etag: str | None
    file: ImportedFile
    has_type: bool


class Skipped(msgspec.Struct, frozen=True):
    """An object, or a row of a table, that cannot become a file."""

    key: str
    why: str


def name_origin(bucket: str, key: str) -> str:
    """Return the reason in the history of an imported file."""
    return f"imported from s3://{bucket}/{key}"
