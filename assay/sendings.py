"""The state of one upload in progress: the caller's options, the source, and the known digest."""

from collections.abc import Mapping
from typing import Any, Literal

import msgspec

from assay.api import Api
from assay.journals import Journal
from assay.progress import Meter
from assay.sources import Source

Hash = Literal["auto", "parts", "none"]
"""The digests that the client computes.

`auto` means that of the whole file, and `parts` means those of the parts instead. With `none`, the
server has no digest to compare with the proved one.
"""


class UploadOptions(msgspec.Struct, frozen=True, kw_only=True):
    """The options that the caller has given for an upload."""

    filename: str
    content_type: str | None
    metadata: Mapping[str, str]
    sha256: str | None
    multipart: bool | None
    hash: Hash
    parallel: int

    def fields(self, size: int) -> dict[str, Any]:
        """Return the body of the declaration. Fields that are None are omitted."""
        said = {
            "filename": self.filename,
            "size": size,
            "content_type": self.content_type,
            "sha256": self.sha256,
            "multipart": self.multipart,
            "metadata": dict(self.metadata) or None,
        }
        return {name: value for name, value in said.items() if value is not None}


class Sending:
    """An upload in progress. `sha256` is the digest of the whole file, or None if not yet known."""

    def __init__(
        self, api: Api, source: Source, options: UploadOptions, *, journal: Journal, meter: Meter
    ) -> None:
        self.api = api
        self.source = source
        self.options = options
        self.journal = journal
        self.meter = meter
        self.sha256 = options.sha256

    @property
    def wants_whole(self) -> bool:
        """Return whether the client computes the digest of the whole file."""
        return self.options.sha256 is None and self.options.hash == "auto"

    @property
    def wants_parts(self) -> bool:
        return self.options.hash == "parts"
