"""What an import names before it copies: an object, and the file that it is to become."""

import msgspec

from service.queries.importing import ImportedFile


class Wanted(msgspec.Struct, frozen=True):
    """An object of the source. `etag` is None if any object under the key is meant.

    If `has_type` is false, the file gets the content type of the object.
    """

    key: str
    etag: str | None
    file: ImportedFile
    has_type: bool


class Skipped(msgspec.Struct, frozen=True):
    """An object, or a row of a table, that cannot become a file."""

    key: str
    why: str
