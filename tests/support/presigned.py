"""The stores' responses to presigned URLs that are used in ways that they were not signed for.

The module also has the functions that send such requests.
"""

import base64
import hashlib
import zlib
from collections.abc import Mapping
from datetime import datetime

import pytest

from service.object_store import Bucket, ObjectMissing, StoreUnavailable
from service.object_store.presign import PresignedPut, Signer
from service.uploads.signing import Upload
from tests.support.objects import read_all
from tests.support.stores import Answer, Headers, StoreUnderTest, add_headers, now, send

BODY = b"hello, store"
OTHER = b"HELLO, STORE"

# The service's own URLs, and the policies of `assay bootstrap`.
# Silo's column comes from its source and has not been executed. It has several statuses where the
# source does not decide.
EXPECTED: dict[str, dict[str, set[int]]] = {
    "another length": {"minio": {403}, "silo": {403}, "embedded": {403}},
    "another type": {"minio": {403}, "silo": {403}, "embedded": {403}},
    "no type": {"minio": {400}, "silo": {400}, "embedded": {400}},
    "another body than the digest": {"minio": {400}, "silo": {400}, "embedded": {400}},
    "another body, streaming-unsigned": {"minio": {403}, "silo": {403}, "embedded": {403}},
    "another body than the signed checksum": {"minio": {400}, "silo": {400}, "embedded": {200}},
    "if-none-match, key exists": {"minio": {412}, "silo": {412}, "embedded": {200}},
    "if-none-match dropped": {"minio": {400}, "silo": {400}, "embedded": {400}},
    "part of another length": {"minio": {403}, "silo": {403}, "embedded": {403}},
    "part with another digest": {"minio": {400}, "silo": {400}, "embedded": {400}},
    "unsigned metadata": {"minio": {400}, "silo": {400}, "embedded": {200}},
    "unsigned metadata, empty": {"minio": {200}, "silo": {200}, "embedded": {200}},
    "copy-source": {"minio": {403}, "silo": {400, 403}, "embedded": {403}},
    "no signature": {"minio": {403}, "silo": {403}, "embedded": {403}},
    "no signature, root's key id": {"minio": {200}, "silo": {400, 403}, "embedded": {403}},
    "unreadable": {"minio": {200}, "silo": {200}, "embedded": {200}},
    "ends after the URL": {"minio": {200}, "silo": {200}, "embedded": {200}},
    "begins after the URL": {"minio": {403}, "silo": {403}, "embedded": {403}},
    "key sent along": {"minio": {400}, "silo": {400}, "embedded": {400}},
    "chunked": {"minio": {411}, "silo": {411}, "embedded": {411}},
    "lives for longer than 7 days": {"minio": {400}, "silo": {400}, "embedded": {400}},
}

# URLs that forbid no header, and policies that permit unsigned bodies.
OPEN: dict[str, dict[str, set[int]]] = {
    "another body, streaming-unsigned": {
        "minio": {200},
        "silo": {200, 400, 403},
        "embedded": {400},
    },
    "unsigned headers of the object": {"minio": {200}, "silo": {200}, "embedded": {200}},
    "suppressed event": {"minio": {200}, "silo": {200, 400, 403}, "embedded": {200}},
    "no signature": {"minio": {200}, "silo": {400, 403}, "embedded": {403}},
    "snowball": {"minio": {400}, "silo": {400}, "embedded": {200}},
    "snowball, empty and set": {"minio": {200}, "silo": {200, 400, 403}, "embedded": {200}},
    "forged time and ETag": {"minio": {200}, "silo": {200, 400, 403}, "embedded": {200}},
}

SNOWBALL = "x-amz-meta-snowball-auto-extract"
ABUSES: dict[str, str] = {
    "content-disposition": "inline",
    "content-encoding": "gzip",
    "x-amz-acl": "public-read",
    "x-amz-copy-source": "/vault/secret",
    "x-amz-decoded-content-length": "1",
    SNOWBALL: "true",
    "x-amz-object-lock-legal-hold": "ON",
    "x-amz-object-lock-mode": "GOVERNANCE",
    "x-amz-server-side-encryption": "AES256",
    "x-amz-server-side-encryption-customer-algorithm": "AES256",
    "x-amz-storage-class": "REDUCED_REDUNDANCY",
    "x-amz-tagging": "theirs=1",
    "x-amz-trailer": "x-amz-checksum-crc32",
    "x-amz-website-redirect-location": "/elsewhere",
    "x-minio-source-etag": "0" * 32,
    "x-minio-source-mtime": "2026-11-27T00:00:00Z",
    "x-minio-source-replication-request": "true",
}
"""The headers that a client may add, with a value that has an effect.

Every header that a URL forbids is among them.
"""
FORMS = (
    "set",
    "empty",
    "empty and set",
    "neutral",
    "neutral and set",
    "set twice",
    "set and neutral",
    "a space",
)


def fill_form(form: str, *, neutral: str, value: str) -> list[str]:
    """Return the values under which the header is sent, in order."""
    known = {"set": value, "empty": "", "neutral": neutral, "a space": " "}
    return {
        "set twice": [value, value],
        **{one: [known[one]] for one in known},
        **{f"{one} and {other}": [known[one], known[other]] for one in known for other in known},
    }[form]


Answers = Mapping[str, set[int]]
"""The statuses that one server may answer, by case."""


@pytest.fixture(scope="session")
def server(store: StoreUnderTest) -> str:
    return name_server(store)


def name_server(store: StoreUnderTest) -> str:
    """Return the server's column in the table.

    The `Server` header distinguishes MinIO from Silo, because both are started in the same way.
    """
    if store.kind == "embedded":
        return "embedded"
    answer = send("GET", f"{store.endpoint}/minio/health/live")
    return "silo" if "silo" in answer.headers.get("Server", "").lower() else "minio"


@pytest.fixture(scope="session")
def expected(server: str) -> Answers:
    return {case: answers[server] for case, answers in EXPECTED.items()}


def sign(
    signer: Signer,
    bucket: Bucket,
    key: str,
    *,
    size: int | None = len(BODY),
    digest_of: bytes | None = None,
    if_none_match: bool = False,
    lives_seconds: int = 60,
    query: Mapping[str, str] | None = None,
) -> PresignedPut:
    return signer.presign_put(
        bucket.name,
        key,
        size=size,
        content_type="text/plain",
        sha256=hashlib.sha256(digest_of).hexdigest() if digest_of is not None else None,
        if_none_match=if_none_match,
        issued_at=now(),
        expires_in_seconds=lives_seconds,
        query=query,
    )


def put(
    upload: PresignedPut | Upload, body: bytes = BODY, headers: Headers | None = None
) -> Answer:
    return send("PUT", upload.url, body=body, headers=add_headers(upload.headers, headers))


def content(bucket: Bucket, key: str, *, tries: int = 3) -> bytes | None:
    """Return the object's bytes, or None if there is no object.

    A read is repeated, because the embedded store may answer it with 500 during a deletion.
    """
    try:
        return read_all(bucket, key)
    except ObjectMissing:
        return None
    except StoreUnavailable:
        if tries == 1:
            raise
    return content(bucket, key, tries=tries - 1)


def stream_unsigned(body: bytes) -> tuple[bytes, dict[str, str]]:
    """Return a chunked body with a checksum in its trailer, and the headers that declare it.

    With these headers, the store compares the body with no signature.
    """
    checksum = base64.b64encode(zlib.crc32(body).to_bytes(4, "big")).decode()
    pieces = b"%x\r\n%b\r\n0\r\nx-amz-checksum-crc32:%b\r\n\r\n" % (
        len(body),
        body,
        checksum.encode(),
    )
    return pieces, {
        "x-amz-content-sha256": "STREAMING-UNSIGNED-PAYLOAD-TRAILER",
        "x-amz-decoded-content-length": str(len(body)),
        "x-amz-trailer": "x-amz-checksum-crc32",
    }


def forge(last_modified: datetime) -> dict[str, str]:
    """Return the headers that one MinIO sends to another one, which keeps a replica."""
    return {
        "x-minio-source-replication-request": "true",
        "x-minio-source-mtime": f"{last_modified:%Y-%m-%dT%H:%M:%SZ}",
        "x-minio-source-etag": "0" * 32,
    }
