"""Media types by the ends of names."""

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
    """None when the name does not say. `a.tar.gz` is gzip: what is inside is nobody's business but the receiver's."""
    kind, packed = mimetypes.guess_type(f"/{filename}", strict=True)
    return PACKED.get(packed) if packed else kind
