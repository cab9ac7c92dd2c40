"""Media types by the extensions of names."""

import mimetypes
from typing import Final

PACKED: Final = {
    "gzip": "application/gzip",
    "bzip2": "application/x-bzip2",
    "xz": "application/x-xz",
    "br": None,
    "compress": None,
}


def guess_type(filename: str) -> str | None:
    """Return the media type, or None if the extension is unknown. `a.tar.gz` is gzip."""
    kind, packed = mimetypes.guess_type(f"/{filename}", strict=True)
    return PACKED.get(packed) if packed else kind
