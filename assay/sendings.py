"""One upload under way: what the caller wished, where the bytes are, and what is known so far."""

from collections.abc import Mapping
from typing import Any, Literal

import msgspec

from assay.api import Api
from assay.journals import Journal
from assay.progress import Meter
from assay.sources import Source

Hash = Literal["auto", "parts", "none"]
"""`auto`: the whole file's digest, and each part's. `parts`: each part's alone. `none`: what the server proves is compared with nothing."""


class UploadOptions(msgspec.Struct, frozen=True, kw_only=True):
    """What the caller says of an upload."""

    filename: str
    content_type: str | None
    metadata: Mapping[str, str]
    sha256: str | None
    multipart: bool | None
    hash: Hash
    parallel: int

    def fields(self, size: int) -> dict[str, Any]:
        """The declaration's body; what is None is left out."""
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
    """`sha256` is the whole file's digest, as soon as it is known."""

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
        """The whole digest is to be found, for it is not known."""
        return self.options.sha256 is None and self.options.hash == "auto"

    @property
    def wants_parts(self) -> bool:
        return self.options.hash != "none"
