"""AWS Signature Version 4 for S3, in the header of a request and in the query of a URL.

The module follows "Authenticating Requests (AWS Signature Version 4)" of the Amazon S3 API
reference:

    canonical request   method, path, query, header lines, names of the signed headers, and the
                        digest of the payload
    string to sign      algorithm, timestamp, scope, SHA-256 of the canonical request
    signature           HMAC of the string to sign by a key for one day, region and service

`sign` puts the signature into the `Authorization` header, and `presign` puts it into the query.
Both sign the same canonical request. The module sends nothing and does not depend on a transport.
"""

import functools
import hmac
from collections.abc import Mapping
from datetime import UTC, datetime
from hashlib import sha256 as new_sha256
from typing import Final
from urllib.parse import quote, urlsplit

import msgspec

ALGORITHM: Final = "AWS4-HMAC-SHA256"
UNSIGNED_PAYLOAD: Final = "UNSIGNED-PAYLOAD"
EMPTY_SHA256: Final = new_sha256(b"").hexdigest()
LONGEST_EXPIRY_SECONDS: Final = 7 * 24 * 3600
"""The longest lifetime of a URL that stores accept."""


class AbsentHeaders(msgspec.Struct, frozen=True, eq=False):
    """The headers that a URL forbids. `neutral` maps names in lower case to neutral values."""

    neutral: Mapping[str, str]
    query: str
    """The query parameters as they are sent and signed, in the order of their names."""


def forbid(neutral: Mapping[str, str]) -> AbsentHeaders:
    return AbsentHeaders(
        neutral,
        "&".join([f"{name}={quote(value, safe='')}" for name, value in sorted(neutral.items())]),
    )


NO_HEADER: Final = forbid({})


class SigningKey(msgspec.Struct, frozen=True):
    """A key derived from the secret key for one day, region and service, as every signature needs
    it.
    """

    day: str
    scope: str
    credential: str
    """Key id and scope, as the `Authorization` header shows them."""
    escaped_credential: str
    key: bytes


class HeaderLayout(msgspec.Struct, frozen=True):
    """The signed headers of one kind of request, without the values that differ per request."""

    names: str
    escaped_names: str
    lines: str
    """A `%` template of the canonical header lines, for values in the order of their names."""


class RequestSigner:
    """A signer of requests of one identity to one endpoint. Threads can share it."""

    def __init__(self, endpoint: str, *, access_key: str, secret_key: str, region: str) -> None:
        """Create a signer for `endpoint`, the address of the store, as `https://host[:port]`.

        The host is signed, so that a request cannot be sent to another address later.
        """
        self.scheme, self.host = parse_endpoint(endpoint)
        self.origin = f"{self.scheme}://{self.host}"
        self._access_key = access_key
        self._secret_key = secret_key
        self._region = region
        self._signing_key = self._derive_key("")

    def __repr__(self) -> str:
        # without the key id, which on an old MinIO is enough to write
        return f"{type(self).__name__}({self.origin})"

    def sign(
        self,
        method: str,
        path: str,
        query: str,
        *,
        headers: Mapping[str, str],
        digest: str,
        signed_at: datetime,
    ) -> dict[str, str]:
        """Return all headers to send, including `Authorization`, which signs them.

        `path` and `query` come from `object_path` and `canonical_query`. `digest` is the SHA-256 of
        the body in hexadecimal, or UNSIGNED_PAYLOAD.
        """
        timestamp = amz_timestamp(signed_at)
        signing = self._key_of_day(timestamp[:8])
        sent = {**headers, "x-amz-content-sha256": digest, "x-amz-date": timestamp}
        layout, lines = write_header_lines(sent, host=self.host)
        signature = compute_signature(
            signing, timestamp, f"{method}\n{path}\n{query}\n{lines}\n{layout.names}\n{digest}"
        )
        sent["Host"] = self.host
        sent["Authorization"] = (
            f"{ALGORITHM} Credential={signing.credential},"
            f" SignedHeaders={layout.names}, Signature={signature}"
        )
        return sent

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
        """Return a URL for one request, whose headers, query and absent headers are signed.

        `bucket` is None if the endpoint's host names it already. `sha256` is the digest of the
        body; without it, any body is accepted. Raises ValueError for a lifetime that no store
        accepts.
        """
        if not 1 <= expires_in_seconds <= LONGEST_EXPIRY_SECONDS:
            raise ValueError(
                f"the lifetime of a URL must be from 1 second to 7 days, not {expires_in_seconds} s"
            )
        timestamp = amz_timestamp(issued_at)
        signing = self._key_of_day(timestamp[:8])
        path = object_path(bucket, key)
        layout, lines = write_header_lines(headers or {}, host=self.host, absent=absent)
        digest = sha256.lower() if sha256 is not None else None
        own = (
            f"X-Amz-Algorithm={ALGORITHM}{f'&X-Amz-Content-Sha256={digest}' if digest else ''}"
            f"&X-Amz-Credential={signing.escaped_credential}&X-Amz-Date={timestamp}"
            f"&X-Amz-Expires={expires_in_seconds}&X-Amz-SignedHeaders={layout.escaped_names}"
        )
        sent_query, signed_query = join_queries(query or {}, own, absent=absent)
        request = (
            f"{method}\n{path}\n{signed_query}\n{lines}\n{layout.names}"
            f"\n{digest or UNSIGNED_PAYLOAD}"
        )
        signature = compute_signature(signing, timestamp, request)
        return f"{self.origin}{path}?{sent_query}&X-Amz-Signature={signature}"

    def _key_of_day(self, day: str) -> SigningKey:
        # read once, because another thread may replace it with the next day's key
        cached = self._signing_key
        if cached.day != day:
            self._signing_key = cached = self._derive_key(day)
        return cached

    def _derive_key(self, day: str) -> SigningKey:
        """Return the key of one day. It is cached, so its four HMACs are computed once a day."""
        key = f"AWS4{self._secret_key}".encode()
        for part in (day, self._region, "s3", "aws4_request"):
            key = hmac.digest(key, part.encode(), "sha256")
        scope = f"{day}/{self._region}/s3/aws4_request"
        credential = f"{self._access_key}/{scope}"
        return SigningKey(day, scope, credential, quote(credential, safe=""), key)


def compute_signature(signing: SigningKey, timestamp: str, canonical_request: str) -> str:
    text = (
        f"{ALGORITHM}\n{timestamp}\n{signing.scope}"
        f"\n{new_sha256(canonical_request.encode()).hexdigest()}"
    )
    return hmac.digest(signing.key, text.encode(), "sha256").hex()


def parse_endpoint(endpoint: str) -> tuple[str, str]:
    """Return the scheme and the `Host` header of an endpoint's URL. Raises ValueError.

    A default port is not part of the header (RFC 9110, section 7.2).
    """
    parts = urlsplit(endpoint)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError("an endpoint must have the form http://host[:port] or https://host[:port]")
    if parts.path not in ("", "/") or parts.query or parts.fragment or "@" in parts.netloc:
        raise ValueError(
            "an endpoint must not have a path, query, fragment or user,"
            " because the store's signatures do not allow a prefix"
        )
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    default_port = {"http": 80, "https": 443}[parts.scheme]
    return parts.scheme, host if parts.port in (None, default_port) else f"{host}:{parts.port}"


def amz_timestamp(moment: datetime) -> str:
    """Return the time in the form of `X-Amz-Date`: basic ISO 8601 in UTC, in whole seconds."""
    if moment.tzinfo is None:
        raise ValueError("a time without a time zone cannot be signed")
    return moment.astimezone(UTC).strftime("%Y%m%dT%H%M%SZ")


def object_path(bucket: str | None, key: str) -> str:
    """Return the path of an object, percent-encoded once.

    S3 signs the path as it is sent, unlike other services of AWS.
    """
    if not key or not {".", ".."}.isdisjoint(key.split("/")):
        raise ValueError(
            "an object's key must not be empty or have a segment . or ..,"
            " because clients would remove such segments"
        )
    return f"/{quote(key)}" if bucket is None else f"/{bucket}/{quote(key)}"


def write_header_lines(
    headers: Mapping[str, str], *, host: str, absent: AbsentHeaders = NO_HEADER
) -> tuple[HeaderLayout, str]:
    """Return the layout and the canonical lines of these headers, of the host and of the absent
    headers.
    """
    signed = canonical_headers(headers, host=host)
    layout = lay_out_headers(tuple([name for name, _ in signed]), absent)
    return layout, layout.lines % tuple([value for _, value in signed])


def canonical_headers(headers: Mapping[str, str], *, host: str) -> list[tuple[str, str]]:
    """Return names in lower case and values with their spaces folded, sorted by name.

    The store derives the same form from the request.
    """
    return sorted(
        [
            ("host", host),
            *[(name.lower(), " ".join(value.split())) for name, value in headers.items()],
        ]
    )


@functools.lru_cache(maxsize=64)
def lay_out_headers(names: tuple[str, ...], absent: AbsentHeaders) -> HeaderLayout:
    """Return the layout for these sorted names and the absent headers.

    There are only a few kinds of requests, so the layouts are cached.
    """
    lines = dict.fromkeys(names, "%s") | {
        name: value.replace("%", "%%") for name, value in absent.neutral.items()
    }
    every = ";".join(sorted(lines))
    template = "".join([f"{name.replace('%', '%%')}:{lines[name]}\n" for name in sorted(lines)])
    return HeaderLayout(every, every.replace(";", "%3B"), template)


def canonical_query(query: Mapping[str, str]) -> str:
    """Return the query of a request as it is sent and signed.

    The parameters are percent-encoded and sorted by name, and an empty value follows its `=`.
    """
    return "&".join(
        [
            f"{name}={value}"
            for name, value in sorted(
                [(quote(name, safe=""), quote(value, safe="")) for name, value in query.items()]
            )
        ]
    )


def join_queries(query: Mapping[str, str], own: str, *, absent: AbsentHeaders) -> tuple[str, str]:
    """Return the query of a URL as it is sent, and as it is signed.

    The signed form is sorted by name, which is not the same as sorting `name=value`.
    """
    if not query:
        # Names in lower case come after `X-Amz-…`.
        joined = f"{own}&{absent.query}" if absent.query else own
        return joined, joined
    pairs = [(quote(name, safe=""), quote(value, safe="")) for name, value in sorted(query.items())]
    sent = "&".join(
        [
            *[f"{name}={value}" for name, value in pairs],
            own,
            *([absent.query] if absent.query else []),
        ]
    )
    return sent, "&".join(sorted(sent.split("&"), key=lambda pair: pair.split("=")))
