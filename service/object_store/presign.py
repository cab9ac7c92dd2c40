"""URLs that let somebody without a key send exactly one request to the store: AWS Signature Version 4 in the query.

Follows "Authenticating Requests: Using Query Parameters (AWS Signature Version 4)" of the Amazon S3 API reference. What is bound into a URL
(method, key, length, type, digest, condition) cannot be changed by its holder.

A URL also binds that some headers are **not** sent. MinIO and its forks take the value of a signed
header from the query when the request does not have that header. The header's name is therefore put
into `X-Amz-SignedHeaders` and a neutral value into the query. A request that has the header, in
whatever form, is then signed differently and is refused. Clients send nothing for it.
See docs/store-facts.md, "Binding the absence of a header".
"""

import functools
import hmac
from collections.abc import Mapping
from datetime import UTC, datetime
from hashlib import sha256 as new_sha256
from typing import Final
from urllib.parse import quote, urlsplit

import msgspec

LONGEST_EXPIRY_SECONDS: Final = 7 * 24 * 3600
"""Stores refuse URLs that live for longer."""


UNSENDABLE: Final = "\x7f"
"""A value that no header can have (RFC 9110, section 5.5).

A request can therefore not have the header for which this value is signed. MinIO acts on the mere
presence of some headers. An empty value would not be neutral for these, because an empty header
would be signed alike.
"""


class AbsentHeaders(msgspec.Struct, frozen=True, eq=False):
    """Headers that a URL forbids, by their names in lower case, each with its neutral value."""

    neutral: Mapping[str, str]
    query: str
    """The parameters as they are sent and signed, in the order of their names."""


def forbid(neutral: Mapping[str, str]) -> AbsentHeaders:
    return AbsentHeaders(neutral, "&".join([f"{name}={quote(value, safe='')}" for name, value in sorted(neutral.items())]))


NO_HEADER: Final = forbid({})
ABSENT_FROM_PUT: Final = forbid(
    {
        # MinIO reads these names from the query too and stores their values with the object.
        # An empty value has no effect there.
        "content-disposition": "",
        "content-encoding": "",
        "x-amz-storage-class": "",
        "x-amz-tagging": "",
        # Stored as well. Any value with "true" in it, in any header of that name, unpacks a tar.
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

Never add `x-minio-replication-server-side-encryption-*` or `x-minio-replication-encrypted-multipart`.
MinIO would take their neutral values from the query, and every object would be unreadable.
"""
ABSENT_FROM_PART: Final = forbid({"x-amz-copy-source": UNSENDABLE})
"""The other headers have no effect on a part."""


class PresignedPut(msgspec.Struct, frozen=True):
    """One PUT: send exactly `headers` (never Host or Content-Length: the HTTP stack sets those) and the body to `url`."""

    url: str
    headers: dict[str, str]


class SigningKey(msgspec.Struct, frozen=True):
    """A secret key reduced to one day, region and service, which is all that a signature needs."""

    day: str
    scope: str
    credential: str
    """Key id and scope, escaped for the query."""
    key: bytes


class HeaderLayout(msgspec.Struct, frozen=True):
    """The signed headers of one kind of request, without the values that differ between URLs."""

    names: str
    escaped_names: str
    lines: str
    """A `%` template of the canonical header lines, for values in the order of their names."""


class Signer:
    """Signs for one identity at one endpoint. Safe to share between threads."""

    def __init__(self, endpoint: str, *, access_key: str, secret_key: str, region: str, bind_absent_headers: bool = True) -> None:
        """`endpoint` is the address that clients use, as `https://host[:port]`: the host is signed, and a URL is never rewritten later.

        `bind_absent_headers` is for MinIO and its forks. Other stores refuse a request that does not
        have every signed header.
        """
        self._scheme, self._host = parse_endpoint(endpoint)
        self._access_key = access_key
        self._secret_key = secret_key
        self._region = region
        self._absent_from_put = ABSENT_FROM_PUT if bind_absent_headers else NO_HEADER
        self._absent_from_part = ABSENT_FROM_PART if bind_absent_headers else NO_HEADER
        self._signing_key = self._derive_key("")

    def __repr__(self) -> str:
        return f"Signer({self._scheme}://{self._host})"  # no key id: on an old MinIO it is enough to write

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
        """A URL for one PUT, bound to whatever is not None, and to the absence of the headers that `ABSENT_FROM_…` names.

        `size` is in bytes, `sha256` 64 hex digits, `issued_at` the database's time (only its clock counts), `query` what names a part
        (`partNumber`, `uploadId`). Raises ValueError for an end that no store accepts.
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

    def presign(
        self,
        method: str,
        bucket: str | None,
        *,
        key: str,
        issued_at: datetime,
        expires_in_seconds: int,
        headers: Mapping[str, str] | None = None,
        query: Mapping[str, str] | None = None,
        sha256: str | None = None,
        absent: AbsentHeaders = NO_HEADER,
    ) -> str:
        """The URL for any request. `bucket` is None where the endpoint's host names it already; `sha256` is the body's, else it is free."""
        if not 1 <= expires_in_seconds <= LONGEST_EXPIRY_SECONDS:
            raise ValueError(f"a URL lives for 1 second to 7 days, not {expires_in_seconds} s")
        timestamp = amz_timestamp(issued_at)
        signing = self._key_of_day(timestamp[:8])
        path = object_path(bucket, key)
        signed_headers = canonical_headers(headers or {}, host=self._host)
        layout = lay_out_headers(tuple([name for name, _ in signed_headers]), absent)
        header_lines = layout.lines % tuple([value for _, value in signed_headers])
        digest = sha256.lower() if sha256 is not None else None
        own = (
            f"X-Amz-Algorithm=AWS4-HMAC-SHA256{f'&X-Amz-Content-Sha256={digest}' if digest else ''}&X-Amz-Credential={signing.credential}"
            f"&X-Amz-Date={timestamp}&X-Amz-Expires={expires_in_seconds}&X-Amz-SignedHeaders={layout.escaped_names}"
        )
        sent_query, canonical_query = join_queries(query or {}, own, absent=absent)
        request = f"{method}\n{path}\n{canonical_query}\n{header_lines}\n{layout.names}\n{digest or 'UNSIGNED-PAYLOAD'}"
        text = f"AWS4-HMAC-SHA256\n{timestamp}\n{signing.scope}\n{new_sha256(request.encode()).hexdigest()}"
        signature = hmac.digest(signing.key, text.encode(), "sha256").hex()
        return f"{self._scheme}://{self._host}{path}?{sent_query}&X-Amz-Signature={signature}"

    def _key_of_day(self, day: str) -> SigningKey:
        cached = self._signing_key  # read once: another thread may put the next day's in its place
        if cached.day != day:
            self._signing_key = cached = self._derive_key(day)
        return cached

    def _derive_key(self, day: str) -> SigningKey:
        """Four HMACs a day instead of four a URL."""
        key = f"AWS4{self._secret_key}".encode()
        for part in (day, self._region, "s3", "aws4_request"):
            key = hmac.digest(key, part.encode(), "sha256")
        scope = f"{day}/{self._region}/s3/aws4_request"
        return SigningKey(day=day, scope=scope, credential=quote(f"{self._access_key}/{scope}", safe=""), key=key)


def parse_endpoint(endpoint: str) -> tuple[str, str]:
    """The scheme and the `Host` header of an endpoint's URL; a default port is not part of it (RFC 9110, 7.2). Raises ValueError."""
    parts = urlsplit(endpoint)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError("an endpoint is http://host[:port] or https://host[:port]")
    if parts.path not in ("", "/") or parts.query or parts.fragment or "@" in parts.netloc:
        raise ValueError("an endpoint has no path, query, fragment or user: a store's signatures do not survive a prefix")
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    default_port = {"http": 80, "https": 443}[parts.scheme]
    return parts.scheme, host if parts.port in (None, default_port) else f"{host}:{parts.port}"


def amz_timestamp(moment: datetime) -> str:
    """`X-Amz-Date`: basic ISO 8601 in UTC, whole seconds."""
    if moment.tzinfo is None:
        raise ValueError("a time without a zone cannot be signed")
    return moment.astimezone(UTC).strftime("%Y%m%dT%H%M%SZ")


def object_path(bucket: str | None, key: str) -> str:
    """The path of an object, escaped once: S3 signs it as it is sent, unlike other services of AWS."""
    if not key or not {".", ".."}.isdisjoint(key.split("/")):
        raise ValueError("an object's key is not empty, and no segment of it is . or ..: clients would fold those away")
    return f"/{quote(key)}" if bucket is None else f"/{bucket}/{quote(key)}"


def canonical_headers(headers: Mapping[str, str], *, host: str) -> list[tuple[str, str]]:
    """Names in lower case, values with their spaces folded, sorted by name: as the store will rebuild them from the request."""
    return sorted([("host", host), *[(name.lower(), " ".join(value.split())) for name, value in headers.items()]])


@functools.lru_cache(maxsize=64)
def lay_out_headers(names: tuple[str, ...], absent: AbsentHeaders) -> HeaderLayout:
    """Return the layout for these names, which are sorted, with the absent ones between them.

    There are only a few kinds of uploads, so the layouts are kept.
    """
    lines = dict.fromkeys(names, "%s") | {name: value.replace("%", "%%") for name, value in absent.neutral.items()}
    every = ";".join(sorted(lines))
    template = "".join([f"{name.replace('%', '%%')}:{lines[name]}\n" for name in sorted(lines)])
    return HeaderLayout(every, every.replace(";", "%3B"), template)


def join_queries(query: Mapping[str, str], own: str, *, absent: AbsentHeaders) -> tuple[str, str]:
    """The query as it is sent, and as it is signed: sorted by name, which is not the order of `name=value`."""
    if not query:
        # Names in lower case come after `X-Amz-…`.
        joined = f"{own}&{absent.query}" if absent.query else own
        return joined, joined
    pairs = [(quote(name, safe=""), quote(value, safe="")) for name, value in sorted(query.items())]
    sent = "&".join([*[f"{name}={value}" for name, value in pairs], own, *([absent.query] if absent.query else [])])
    return sent, "&".join(sorted(sent.split("&"), key=lambda pair: pair.split("=")))
