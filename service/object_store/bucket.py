"""One bucket of the store. Each method sends one request, once, within its own time limits."""

import re
from base64 import b64encode
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import suppress
from hashlib import md5
from typing import Any, Final, TypeVar
from urllib.parse import quote, urlencode

from service.object_store import xml_documents
from service.object_store.client import Client
from service.object_store.errors import UploadMissing, invalid_answer
from service.object_store.messages import Answer, Body, Deadline, Request
from service.object_store.objects import (
    ListedObject,
    StoredCopy,
    StoredObject,
    StoredPart,
    read_object,
    strip_quotes,
)
from service.object_store.reader import ObjectReader

QUICK_SECONDS: Final = 10.0
"""The timeout of requests that transfer no object data."""
DELETE_SECONDS: Final = 40.0
"""The timeout of a DELETE. A store delays it for 30 s while a stalled reader holds the object."""
PAGE: Final = 1_000
CONDITION: Final = re.compile(r"[0-9A-Za-z_-]{1,128}")
"""The ETags that stores generate: digests in hexadecimal, with the number of parts, or a name."""

Result = TypeVar("Result")


class Bucket:
    """A bucket.

    `open`, `put_now` and `put_part` run in the calling thread. Coroutines send their requests from
    the event loop, or in the store's request threads if they parse long documents.
    """

    def __init__(self, client: Client, name: str, *, run: Callable[..., Any]) -> None:
        self.client = client
        """Client that sends the requests.

        The operations use the methods below, which a test can replace.
        """
        self._run = run
        self.name = name

    def __repr__(self) -> str:
        return f"Bucket({self.name})"

    async def head(self, key: str, *, timeout_seconds: float = QUICK_SECONDS) -> StoredObject:
        """Return the store's description of an object.

        Raises ObjectMissing, ObjectUnreadable or StoreUnavailable.
        """
        return await self._send(
            Request("HEAD", self.name, key),
            Deadline(timeout_seconds),
            lambda answer: read_object(key, answer.headers),
        )

    async def copy_from(
        self,
        source: "Bucket",
        source_key: str,
        *,
        etag: str | None,
        key: str,
        content_type: str,
        metadata: Mapping[str, str],
        tags: Mapping[str, str],
        send_before: float,
        timeout_seconds: float,
    ) -> StoredCopy:
        """Copy an object of `source` to `key` within the store, if its ETag is still `etag`.

        If `etag` is None, any object under that key is copied. Only the bytes of the source are
        kept.

        `send_before` is a time of `clock`. Raises SentTooLate if it has passed and nothing was
        sent, and ObjectChanged, ObjectMissing or ObjectUnreadable. After StoreUnavailable, the
        store may still create the copy at any later time.
        """
        headers = object_headers(content_type, metadata, tags) | copy_source(
            source.name, source_key, etag
        )
        headers |= {"x-amz-metadata-directive": "REPLACE", "x-amz-tagging-directive": "REPLACE"}
        request = Request("PUT", self.name, key, headers=headers)
        return StoredCopy(
            key, await self._send(request, Deadline(timeout_seconds, send_before), read_copied_etag)
        )

    def open(
        self,
        key: str,
        *,
        etag: str | None,
        offset: int = 0,
        length: int | None = None,
        timeout_seconds: float = QUICK_SECONDS,
    ) -> ObjectReader:
        """Start to read from `offset` on, in the calling thread: `length` (≥ 1) bytes, or to the
        end.

        If `etag` is None, any object under that key is read. `timeout_seconds` limits each wait,
        not the whole. Raises ObjectMissing, ObjectChanged, ObjectUnreadable or StoreUnavailable,
        and RequestRefused (416) for an offset past the end.
        """
        headers = {"If-Match": f'"{etag}"'} if etag is not None else {}
        if offset or length is not None:
            headers["Range"] = f"bytes={offset}-{'' if length is None else offset + length - 1}"
        request = Request("GET", self.name, key, headers=headers)
        return ObjectReader(
            self.client.open(request, Deadline(timeout_seconds)),
            request=request.name,
            partial="Range" in headers,
        )

    async def read(self, key: str, *, length: int, timeout_seconds: float = QUICK_SECONDS) -> bytes:
        """Return the first `length` bytes of a small object. Raises the same errors as `open`."""
        result: bytes = await self._run(lambda: self._read(key, length, timeout_seconds))
        return result

    def _read(self, key: str, length: int, timeout_seconds: float) -> bytes:
        body = bytearray()
        with self.open(key, etag=None, timeout_seconds=timeout_seconds) as reader:
            while len(body) < length and (piece := reader.read(length - len(body))):
                body += piece
        return bytes(body)

    async def get(
        self, key: str, *, most_bytes: int, timeout_seconds: float = QUICK_SECONDS
    ) -> tuple[StoredObject, bytes | None]:
        """Return the store's description of an object and its bytes, from one response.

        The bytes are None if there are more than `most_bytes`. Raises the same errors as `open`.
        """
        request = Request("GET", self.name, key)
        answer = await self.client.exchange(
            request, Deadline(timeout_seconds), most_bytes=most_bytes
        )
        found = parse_answer(request, answer, lambda answer: read_object(key, answer.headers))
        return found, answer.body if len(answer.body) == found.size else None

    async def put(
        self,
        key: str,
        body: Body,
        *,
        content_type: str,
        metadata: Mapping[str, str],
        tags: Mapping[str, str],
        sha256: str | None = None,
        send_before: float | None = None,
        timeout_seconds: float,
    ) -> str:
        """Store `body` and return its ETag.

        `sha256`, in hexadecimal, saves hashing if the caller knows it already. `timeout_seconds`
        limits the sending of the whole body. `send_before` is a time of `clock`. Raises
        SentTooLate if it has passed and nothing was sent.
        """
        headers = object_headers(content_type, metadata, tags)
        request = Request("PUT", self.name, key, headers=headers, body=body, sha256=sha256)
        return await self._send(request, Deadline(timeout_seconds, send_before), read_stored_etag)

    def put_now(
        self,
        key: str,
        body: Body,
        *,
        content_type: str,
        metadata: Mapping[str, str],
        tags: Mapping[str, str],
        sha256: str | None = None,
        send_before: float | None = None,
        timeout_seconds: float,
    ) -> str:
        """Store `body` as `put` does, in the calling thread."""
        headers = object_headers(content_type, metadata, tags)
        request = Request("PUT", self.name, key, headers=headers, body=body, sha256=sha256)
        return self._send_now(request, Deadline(timeout_seconds, send_before), read_stored_etag)

    def put_part(
        self,
        key: str,
        upload_id: str,
        number: int,
        body: Body,
        *,
        sha256: str | None = None,
        timeout_seconds: float,
    ) -> str:
        """Store part `number`, counted from 1, and return its ETag. Raises UploadMissing.

        All parts but the last have at least 5 MiB.
        """
        request = Request(
            "PUT", self.name, key, query=name_part(upload_id, number), body=body, sha256=sha256
        )
        return self._send_now(request, Deadline(timeout_seconds), read_stored_etag)

    async def create_upload(
        self,
        key: str,
        *,
        content_type: str,
        metadata: Mapping[str, str],
        tags: Mapping[str, str],
        timeout_seconds: float = QUICK_SECONDS,
    ) -> str:
        headers = object_headers(content_type, metadata, tags)
        request = Request("POST", self.name, key, query={"uploads": ""}, headers=headers)
        return await self._send(
            request,
            Deadline(timeout_seconds),
            lambda answer: xml_documents.read_upload_id(answer.body),
        )

    async def copy_part_from(
        self,
        source: "Bucket",
        source_key: str,
        *,
        etag: str | None,
        key: str,
        upload_id: str,
        number: int,
        offset: int,
        length: int,
        timeout_seconds: float,
    ) -> StoredPart:
        """Copy `length` bytes of an object of `source` to a part, if the object's ETag is still
        `etag`.

        Raises ObjectChanged, ObjectMissing, ObjectUnreadable or UploadMissing.
        """
        headers = copy_source(source.name, source_key, etag) | {
            "x-amz-copy-source-range": f"bytes={offset}-{offset + length - 1}"
        }
        request = Request(
            "PUT", self.name, key, query=name_part(upload_id, number), headers=headers
        )
        return StoredPart(
            number, length, await self._send(request, Deadline(timeout_seconds), read_copied_etag)
        )

    async def complete_upload(
        self,
        key: str,
        upload_id: str,
        parts: Sequence[tuple[int, str]],
        *,
        timeout_seconds: float = 60.0,
        send_before: float | None = None,
    ) -> str:
        """Combine the parts, given as `(number, ETag)`, into the object and return its ETag.

        `send_before` is a time of `clock`. Raises SentTooLate if it has passed and nothing was
        sent, and UploadMissing, even if the upload was completed before.
        """
        request = post_document(
            self.name, key, {"uploadId": upload_id}, xml_documents.write_completion(parts)
        )
        return await self._send(
            request,
            Deadline(timeout_seconds, send_before),
            lambda answer: xml_documents.read_completed_etag(answer.body),
        )

    async def abort_upload(
        self, key: str, upload_id: str, *, timeout_seconds: float = QUICK_SECONDS
    ) -> None:
        """Abort a multipart upload and remove its parts.

        An upload that does not exist is not an error.
        """
        with suppress(UploadMissing):
            await self._send(
                Request("DELETE", self.name, key, query={"uploadId": upload_id}),
                Deadline(timeout_seconds),
                discard,
            )

    async def list_parts(
        self, key: str, upload_id: str, *, timeout_seconds: float = QUICK_SECONDS
    ) -> list[StoredPart]:
        """Return all parts that the store has, by number. Raises UploadMissing.

        There are at most 10,000, and one request returns 1,000.
        """
        parts: list[StoredPart] = []
        query = {"uploadId": upload_id, "max-parts": str(PAGE)}
        while True:
            request = Request("GET", self.name, key, query=query)
            page = await self._send_in_thread(
                request,
                Deadline(timeout_seconds),
                lambda answer: xml_documents.read_parts(answer.body),
            )
            parts += page.parts
            if page.next_marker is None:
                return parts
            query = {**query, "part-number-marker": str(page.next_marker)}

    async def delete(self, key: str, *, timeout_seconds: float = DELETE_SECONDS) -> None:
        """Delete an object. A key without an object is not an error."""
        await self._send(Request("DELETE", self.name, key), Deadline(timeout_seconds), discard)

    async def delete_many(
        self, keys: Sequence[str], *, timeout_seconds: float = DELETE_SECONDS
    ) -> list[str]:
        """Delete up to 1,000 keys in one request, and return the keys that the store did not
        delete.

        A key without an object is not an error.
        """
        if not keys:
            return []
        request = post_document(self.name, None, {"delete": ""}, xml_documents.write_deletion(keys))
        return await self._send_in_thread(
            request,
            Deadline(timeout_seconds),
            lambda answer: xml_documents.read_undeleted_keys(answer.body),
        )

    async def list_keys(
        self, prefix: str = "", start_after: str = "", *, timeout_seconds: float = 60.0
    ) -> AsyncIterator[ListedObject]:
        """Yield every object in the order of keys, with one request per 1,000 objects."""
        query = {
            "list-type": "2",
            "max-keys": str(PAGE),
            "prefix": prefix,
            "delimiter": "",
            "encoding-type": "url",
        }
        if start_after:
            query["start-after"] = start_after
        while True:
            request = Request("GET", self.name, query=query)
            page = await self._send_in_thread(
                request,
                Deadline(timeout_seconds),
                lambda answer: xml_documents.read_objects(answer.body),
            )
            for listed in page.objects:
                yield listed
            if page.next_token is None:
                return
            query = {**query, "continuation-token": page.next_token}

    async def _send(
        self, request: Request, deadline: Deadline, read: Callable[[Answer], Result]
    ) -> Result:
        """Send the request from the event loop. Raises the errors of `_send_now`."""
        return parse_answer(request, await self.client.exchange(request, deadline), read)

    async def _send_in_thread(
        self, request: Request, deadline: Deadline, read: Callable[[Answer], Result]
    ) -> Result:
        """Send the request, and parse its long response, without a pause of the event loop."""
        result: Result = await self._run(lambda: self._send_now(request, deadline, read))
        return result

    def _send_now(
        self, request: Request, deadline: Deadline, read: Callable[[Answer], Result]
    ) -> Result:
        """Send the request in the calling thread.

        Raises StoreUnavailable if the response cannot be read.
        """
        return parse_answer(request, self.client.send(request, deadline), read)


def parse_answer(request: Request, answer: Answer, read: Callable[[Answer], Result]) -> Result:
    """Return what `read` returns. Raises StoreUnavailable if the response is not one of S3."""
    try:
        return read(answer)
    except (KeyError, ValueError) as error:  # a success that is, for example, a proxy's page
        raise invalid_answer(request.name, error) from error


def read_stored_etag(answer: Answer) -> str:
    return strip_quotes(answer.headers["etag"])


def read_copied_etag(answer: Answer) -> str:
    return xml_documents.read_copied_etag(answer.body)


def discard(_: Answer) -> None:
    """Return nothing, for a response whose status is enough."""


def is_condition(etag: str) -> bool:
    """Return whether the ETag can be used in a condition on every store.

    On an old MinIO, a client can choose its object's ETag (docs/store-facts.md). Some of those
    values invalidate the signature of a request that contains them, and others never match.
    """
    return CONDITION.fullmatch(etag) is not None


def copy_source(bucket: str, key: str, etag: str | None) -> dict[str, str]:
    """Return the header fields that name the source of a copy, and its ETag if one is given."""
    headers: dict[str, str] = {"x-amz-copy-source": f"/{bucket}/{quote(key)}"}
    if etag is not None:
        headers["x-amz-copy-source-if-match"] = f'"{etag}"'
    return headers


def object_headers(
    content_type: str, metadata: Mapping[str, str], tags: Mapping[str, str]
) -> dict[str, str]:
    """Return the header fields for an object's content type and for Assay's metadata and tags, all
    ASCII.
    """
    headers: dict[str, str] = {"Content-Type": content_type}
    headers |= {f"x-amz-meta-{name}": value for name, value in metadata.items()}
    if tags:
        headers["x-amz-tagging"] = urlencode(tags)
    return headers


def name_part(upload_id: str, number: int) -> dict[str, str]:
    return {"partNumber": str(number), "uploadId": upload_id}


def post_document(bucket: str, key: str | None, query: Mapping[str, str], body: bytes) -> Request:
    """Return a POST of an XML document, with its MD5, without which some stores refuse it."""
    digest = b64encode(md5(body, usedforsecurity=False).digest()).decode()
    headers = {"Content-Type": "application/xml", "Content-MD5": digest}
    return Request("POST", bucket, key, query=query, headers=headers, body=body)
