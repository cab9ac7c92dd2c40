"""URLs that allow a client without a key to send exactly one request to the store.

The signature is in the query (service/object_store/signing.py). The holder of a URL cannot change
what is bound into it (method, key, length, type, digest, condition).

A URL also binds that some headers are **not** sent. MinIO and its forks take the value of a signed
header from the query when the request does not have that header. The header's name is therefore put
into `X-Amz-SignedHeaders` and a neutral value into the query. If a request has the header, with any
value, the signature does not match and the request is refused. Clients send nothing for it. See
docs/store-facts.md, "Binding the absence of a header".

See docs/architecture.md, "2. Upload".
"""

from collections.abc import Mapping
from datetime import datetime
from typing import Final

import msgspec

from service.object_store.signing import NO_HEADER, RequestSigner, forbid

UNSENDABLE: Final = "\x7f"
"""A value that no header can have (RFC 9110, section 5.5).

A request can therefore not have the header for which this value is signed. MinIO acts on the mere
presence of some headers. For these, an empty value would not be neutral, because an empty header
has the same signature.
"""

ABSENT_FROM_PUT: Final = forbid(
    {
        # MinIO reads these names from the query too and stores their values with the object.
        # An empty value has no effect there.
        "content-disposition": "",
        "content-encoding": "",
        "x-amz-storage-class": "",
        "x-amz-tagging": "",
        # These are stored as well. Any value that contains "true", in any header of that name,
        # unpacks a tar.
        "x-amz-meta-snowball-auto-extract": "no",
        "x-amz-acl": UNSENDABLE,
        "x-amz-copy-source": UNSENDABLE,
        "x-amz-decoded-content-length": UNSENDABLE,
        "x-amz-object-lock-legal-hold": UNSENDABLE,
        "x-amz-object-lock-mode": UNSENDABLE,
        "x-amz-server-side-encryption": UNSENDABLE,
        "x-amz-server-side-encryption-customer-algorithm": UNSENDABLE,
        "x-amz-trailer": UNSENDABLE,
        "x-amz-website-redirect-location": UNSENDABLE,
        "x-minio-source-etag": UNSENDABLE,
        "x-minio-source-mtime": UNSENDABLE,
        "x-minio-source-replication-request": UNSENDABLE,
    }
)
"""Headers that a URL for a whole object forbids.

Do not add `x-minio-replication-server-side-encryption-*` and
`x-minio-replication-encrypted-multipart`: MinIO would take their neutral values from the query, and
every object would be unreadable.
"""
ABSENT_FROM_PART: Final = forbid({"x-amz-copy-source": UNSENDABLE})
"""Headers that a URL for a part forbids. The others have no effect on a part."""


class PresignedPut(msgspec.Struct, frozen=True):
    """A PUT to `url` with exactly `headers` and the body.

    `headers` never contains Host or Content-Length, because the HTTP stack sets those.
    """

    url: str
    headers: dict[str, str]


class Signer(RequestSigner):
    """A signer of upload URLs for one identity, at the endpoint that clients use.

    Threads can share it.
    """

    def __init__(
        self,
        endpoint: str,
        *,
        access_key: str,
        secret_key: str,
        region: str,
        bind_absent_headers: bool = True,
    ) -> None:
        """Create a signer for `endpoint`, the address that clients use, as `https://host[:port]`.

        `bind_absent_headers` is for MinIO and its forks. Other stores refuse a request that does
        not have every signed header.
        """
        super().__init__(endpoint, access_key=access_key, secret_key=secret_key, region=region)
        self._absent_from_put = ABSENT_FROM_PUT if bind_absent_headers else NO_HEADER
        self._absent_from_part = ABSENT_FROM_PART if bind_absent_headers else NO_HEADER

    def presign_put(
        self,
        bucket: str,
        key: str,
        *,
        size: int | None,
        content_type: str | None,
        sha256: str | None,
        if_none_match: bool,
        issued_at: datetime,
        expires_in_seconds: int,
        query: Mapping[str, str] | None = None,
    ) -> PresignedPut:
        """Return a URL for one PUT, bound to every argument that is not None.

        The URL also binds the absence of the headers that `ABSENT_FROM_PUT` or `ABSENT_FROM_PART`
        names.

        `size` is in bytes, and `sha256` is 64 hexadecimal digits. `issued_at` is a time of the
        database, whose clock alone counts. `query` names a part (`partNumber`, `uploadId`). Raises
        ValueError for a lifetime that no store accepts.
        """
        headers: dict[str, str] = {}
        if content_type is not None:
            headers["Content-Type"] = content_type
        if if_none_match:
            headers["If-None-Match"] = "*"
        url = self.presign(
            "PUT",
            bucket,
            key=key,
            issued_at=issued_at,
            expires_in_seconds=expires_in_seconds,
            headers=headers if size is None else {**headers, "Content-Length": str(size)},
            query=query,
            sha256=sha256,
            absent=self._absent_from_part if query else self._absent_from_put,
        )
        return PresignedPut(url=url, headers=headers)
