"""One bucket, as the operations see it. Each method is one request, sent once, under a time-out of its own."""

import re
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, Final, TypeVar
from urllib.parse import quote, urlencode
from xml.etree import ElementTree as ET

import msgspec
from minio.datatypes import Part, parse_copy_object, parse_list_objects
from minio.deleteobjects import DeleteObject
from minio.helpers import DictType

from service.object_store.connection import Client, calling, name_request
from service.object_store.errors import StoreUnavailable, UploadMissing
from service.object_store.reader import ObjectReader

QUICK_SECONDS: Final = 10.0
"""For requests that move no bytes."""
DELETE_SECONDS: Final = 40.0
"""A store holds a DELETE for 30 s while a stalled reader has the object."""
PAGE: Final = 1_000
CONDITION: Final = re.compile(r"[0-9A-Za-z_-]{1,128}")
"""The ETags that stores make themselves: digests in hexadecimal, with the number of parts, or a name."""

Result = TypeVar("Result")


class StoredObject(msgspec.Struct, frozen=True):
    """What the store says of an object. `metadata` has lower-case names without `x-amz-meta-`, of Assay's own fields alone.

    An ETag has no quotes. `last_modified` is None for a date that cannot be parsed: an old store lets a client write it.
    """

    key: str
    size: int
    etag: str
    content_type: str
    last_modified: datetime | None
    metadata: dict[str, str]


class StoredCopy(msgspec.Struct, frozen=True):
    key: str
    etag: str


class StoredPart(msgspec.Struct, frozen=True):
    number: int
    size: int
    etag: str


class ListedObject(msgspec.Struct, frozen=True):
    key: str
    size: int
    etag: str
    last_modified: datetime


class Bucket:
    """Coroutines run in the store's request threads; `open`, `put_now` and `put_part` in the thread that calls them."""

    def __init__(self, client: Client, name: str, *, run: Callable[..., Any]) -> None:
        self._client = client
        self._run = run
        self.name = name

    def __repr__(self) -> str:
        return f"Bucket({self.name})"

    async def head(self, key: str, *, timeout_seconds: float = QUICK_SECONDS) -> StoredObject:
        """Raises ObjectMissing, ObjectUnreadable, StoreUnavailable."""
        return await self._request(self._head, key, timeout_seconds=timeout_seconds)

    def _head(self, key: str) -> StoredObject:
        answer = self._client._execute("HEAD", self.name, key).headers
        return StoredObject(
            key=key,
            size=int(answer["content-length"]),
            etag=read_etag(answer["etag"]),
            content_type=answer.get("content-type", ""),
            last_modified=read_date(answer.get("last-modified", "")),
            metadata={name.lower()[11:]: value for name, value in answer.items() if name.lower().startswith("x-amz-meta-")},
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
        """Have the store copy an object of `source` to `key`, if its ETag is still `etag`; nothing of the source but its bytes is kept.

        `etag` None: copy whatever lies there.

        `send_before` is a `time.monotonic()`. Raises SentTooLate (nothing was sent), ObjectChanged, ObjectMissing, ObjectUnreadable;
        after StoreUnavailable the copy may still come into being, at any later moment.
        """
        headers = object_headers(content_type, metadata, tags) | copy_source(source.name, source_key, etag)
        headers |= {"x-amz-metadata-directive": "REPLACE", "x-amz-tagging-directive": "REPLACE"}
        return await self._request(self._copy, key, headers, timeout_seconds=timeout_seconds, send_before=send_before)

    def _copy(self, key: str, headers: DictType, query: DictType | None = None) -> StoredCopy:
        answer = self._client._execute("PUT", self.name, key, headers=headers, query_params=query)
        copied_etag, _ = parse_copy_object(answer)
        return StoredCopy(key=key, etag=copied_etag)

    def open(
        self, key: str, *, etag: str | None, offset: int = 0, length: int | None = None, timeout_seconds: float = QUICK_SECONDS
    ) -> ObjectReader:
        """Begin to read, in the caller's thread: from `offset` on, `length` (≥ 1) bytes or to the end. `etag` None: whatever lies there.

        `timeout_seconds` is for each wait, not for the whole. Raises ObjectMissing, ObjectChanged, ObjectUnreadable, StoreUnavailable,
        and RequestRefused (416) for an offset past the end.
        """
        headers: DictType = {"If-Match": f'"{etag}"'} if etag is not None else {}
        if offset or length is not None:
            headers["Range"] = f"bytes={offset}-{'' if length is None else offset + length - 1}"
        with calling(timeout_seconds=timeout_seconds):
            answer = self._client._execute("GET", self.name, key, headers=headers, preload_content=False)
        return ObjectReader(answer, request=name_request("GET", self.name, key), partial="Range" in headers)

    async def read(self, key: str, *, length: int, timeout_seconds: float = QUICK_SECONDS) -> bytes:
        """Return the first `length` bytes of a small object, read in a request thread. Raises as `open` does."""
        result: bytes = await self._run(lambda: self._read(key, length, timeout_seconds))
        return result

    def _read(self, key: str, length: int, timeout_seconds: float) -> bytes:
        body = bytearray()
        with self.open(key, etag=None, timeout_seconds=timeout_seconds) as reader:
            while len(body) < length and (piece := reader.read(length - len(body))):
                body += piece
        return bytes(body)

    async def put(self, key: str, body: bytes, **options: Any) -> str:
        """`put_now` in a request thread."""
        result: str = await self._run(lambda: self.put_now(key, body, **options))
        return result

    def put_now(
        self,
        key: str,
        body: bytes | bytearray | memoryview,
        *,
        content_type: str,
        metadata: Mapping[str, str],
        tags: Mapping[str, str],
        sha256: str | None = None,
        send_before: float | None = None,
        timeout_seconds: float,
    ) -> str:
        """Store `body`; its ETag. `sha256` (hex), where it is known already, saves hashing; `timeout_seconds` is for sending it all.

        `send_before` is a `time.monotonic()`. Raises SentTooLate: nothing was sent.
        """
        headers = object_headers(content_type, metadata, tags)
        with calling(timeout_seconds=timeout_seconds, send_before=send_before):
            return self._send_body(key, body, headers=headers, query={}, sha256=sha256)

    def put_part(
        self,
        key: str,
        upload_id: str,
        number: int,
        body: bytes | bytearray | memoryview,
        *,
        sha256: str | None = None,
        timeout_seconds: float,
    ) -> str:
        """Store part `number` (from 1; all but the last 5 MiB or more); its ETag. Raises UploadMissing."""
        query: DictType = {"partNumber": str(number), "uploadId": upload_id}
        with calling(timeout_seconds=timeout_seconds):
            return self._send_body(key, body, headers={}, query=query, sha256=sha256)

    def _send_body(
        self,
        key: str,
        body: bytes | bytearray | memoryview,
        *,
        headers: DictType,
        query: DictType,
        sha256: str | None,
    ) -> str:
        if sha256 is not None:
            headers["x-amz-content-sha256"] = sha256
        answer = self._client._execute(
            "PUT",
            self.name,
            key,
            body=body,  # type: ignore[arg-type] # any buffer will do: it goes to the hash and to the socket alone
            headers=headers,
            query_params=query,
        )
        return answer.headers["etag"].strip('"')

    async def create_upload(
        self,
        key: str,
        *,
        content_type: str,
        metadata: Mapping[str, str],
        tags: Mapping[str, str],
        timeout_seconds: float = QUICK_SECONDS,
    ) -> str:
        """Begin a multipart upload; its id."""
        headers = object_headers(content_type, metadata, tags)
        return await self._request(self._client._create_multipart_upload, self.name, key, headers, timeout_seconds=timeout_seconds)

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
        """Have the store copy `length` bytes of an object of `source` into a part, if the object's ETag is still `etag`.

        Raises ObjectChanged, ObjectMissing, ObjectUnreadable, UploadMissing.
        """
        headers = copy_source(source.name, source_key, etag) | {"x-amz-copy-source-range": f"bytes={offset}-{offset + length - 1}"}
        query: DictType = {"partNumber": str(number), "uploadId": upload_id}
        copied = await self._request(self._copy, key, headers, query, timeout_seconds=timeout_seconds)
        return StoredPart(number, length, copied.etag)

    async def complete_upload(
        self, key: str, upload_id: str, parts: Sequence[tuple[int, str]], *, timeout_seconds: float = 60.0, send_before: float | None = None
    ) -> str:
        """Make the object out of `(number, ETag)` pairs; its ETag. Raises UploadMissing (also when it was completed before).

        `send_before` is a `time.monotonic()`. Raises SentTooLate: nothing was sent.
        """
        sdk_parts = [Part(number, etag) for number, etag in parts]
        answer = await self._request(
            self._client._complete_multipart_upload,
            self.name,
            key,
            upload_id,
            sdk_parts,
            timeout_seconds=timeout_seconds,
            send_before=send_before,
        )
        return (answer.etag or "").strip('"')

    async def abort_upload(self, key: str, upload_id: str, *, timeout_seconds: float = QUICK_SECONDS) -> None:
        """Drop a multipart upload and its parts; one that is gone already is fine."""
        with suppress(UploadMissing):
            await self._request(self._client._abort_multipart_upload, self.name, key, upload_id, timeout_seconds=timeout_seconds)

    async def list_parts(self, key: str, upload_id: str, *, timeout_seconds: float = QUICK_SECONDS) -> list[StoredPart]:
        """All parts that the store has, by number (at most 10,000, a request for each 1,000). Raises UploadMissing."""
        parts: list[StoredPart] = []
        marker: str | None = None
        while True:
            page = await self._request(self._client._list_parts, self.name, key, upload_id, PAGE, marker, timeout_seconds=timeout_seconds)
            parts += [StoredPart(part.part_number, part.size or 0, part.etag) for part in page.parts]
            if not page.is_truncated:
                return parts
            marker = str(page.next_part_number_marker)

    async def delete(self, key: str, *, timeout_seconds: float = DELETE_SECONDS) -> None:
        """A key under which nothing lies is fine."""
        await self._request(self._client._execute, "DELETE", self.name, key, timeout_seconds=timeout_seconds)

    async def delete_many(self, keys: Sequence[str], *, timeout_seconds: float = DELETE_SECONDS) -> list[str]:
        """Delete up to 1,000 keys in one request; the keys that the store did not delete. Missing ones are fine."""
        if not keys:
            return []
        targets = [DeleteObject(key) for key in keys]
        result = await self._request(self._client._delete_objects, self.name, targets, True, timeout_seconds=timeout_seconds)
        return [error.name or "" for error in result.error_list]

    async def list_keys(self, prefix: str = "", start_after: str = "", *, timeout_seconds: float = 60.0) -> AsyncIterator[ListedObject]:
        """Every object in the order of keys, one request for each 1,000."""
        query: DictType = {"list-type": "2", "max-keys": str(PAGE), "prefix": prefix, "delimiter": "", "encoding-type": "url"}
        if start_after:
            query["start-after"] = start_after
        truncated = True
        while truncated:
            answer = await self._request(
                lambda: self._client._execute("GET", self.name, query_params=query), timeout_seconds=timeout_seconds
            )
            found, truncated, token, _ = parse_list_objects(answer)
            query["continuation-token"] = token or ""
            for item in found:
                modified = item.last_modified or datetime.fromtimestamp(0, UTC)
                yield ListedObject(item.object_name or "", item.size or 0, (item.etag or "").strip('"'), modified)

    async def _request(
        self,
        function: Callable[..., Result],
        *arguments: Any,
        timeout_seconds: float,
        send_before: float | None = None,
    ) -> Result:
        """One call of the SDK in a request thread."""

        def request() -> Result:
            with calling(timeout_seconds=timeout_seconds, send_before=send_before):
                try:
                    return function(*arguments)
                except (ET.ParseError, KeyError, ValueError) as error:  # a 200 that is no answer of S3: a proxy's page, say
                    raise StoreUnavailable(f"/{self.name}: an answer that cannot be read, {type(error).__name__}") from error

        result: Result = await self._run(request)
        return result


def read_etag(header: str) -> str:
    """Return an ETag without its quotes."""
    return header.removeprefix('"').removesuffix('"')


def read_date(header: str) -> datetime | None:
    try:
        return parsedate_to_datetime(header)
    except ValueError:
        return None


def is_condition(etag: str) -> bool:
    """Return whether a condition can name the ETag on every store.

    On an old MinIO a client can choose its object's ETag (docs/store-facts.md). Some of those values
    break the signature of a request that names them, and others never match.
    """
    return CONDITION.fullmatch(etag) is not None


def copy_source(bucket: str, key: str, etag: str | None) -> DictType:
    """Return the header fields that name the source of a copy, and its ETag if one is given."""
    headers: DictType = {"x-amz-copy-source": f"/{bucket}/{quote(key)}"}
    if etag is not None:
        headers["x-amz-copy-source-if-match"] = f'"{etag}"'
    return headers


def object_headers(content_type: str, metadata: Mapping[str, str], tags: Mapping[str, str]) -> DictType:
    """What an object carries besides its bytes: type, metadata and tags of ours, all ASCII."""
    headers: DictType = {"Content-Type": content_type}
    headers |= {f"x-amz-meta-{name}": value for name, value in metadata.items()}
    if tags:
        headers["x-amz-tagging"] = urlencode(tags)
    return headers
