"""The XML documents of the S3 API that the service reads and writes.

    read      CopyObjectResult, CopyPartResult, InitiateMultipartUploadResult, CompleteMultipartUploadResult,
              ListPartsResult, ListBucketResult (version 2), DeleteResult, Error
    written   CompleteMultipartUpload, Delete

Stores differ in their namespaces, so names are compared without them. Reading is strict: a document
with another root, without a field that is needed, or with a document type raises ValueError.
"""

import re
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Final
from urllib.parse import unquote_plus
from xml.etree import ElementTree as ET
from xml.sax.saxutils import escape

import msgspec

from service.object_store.objects import ListedObject, StoredPart, strip_quotes

NAMESPACE: Final = "http://s3.amazonaws.com/doc/2006-03-01/"
WHITESPACE: Final = {"\r": "&#13;", "\n": "&#10;", "\t": "&#9;"}
"""Written as references, because a parser turns a carriage return into a newline."""
UNWRITABLE: Final = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""Characters that no XML document can hold (XML 1.0, section 2.2)."""


class PartsPage(msgspec.Struct, frozen=True):
    """One page of an upload's parts. `next_marker` is None on the last page."""

    parts: list[StoredPart]
    next_marker: int | None


class ObjectsPage(msgspec.Struct, frozen=True):
    """One page of a bucket's objects. `next_token` is None on the last page."""

    objects: list[ListedObject]
    next_token: str | None


Fields = dict[str, str]
"""The children of an element without children of their own, by their local names."""


def read_copied_etag(body: bytes) -> str:
    """Return the ETag of a copied object or part."""
    return read_etag(read_fields(parse(body, "CopyObjectResult", "CopyPartResult")))


def read_upload_id(body: bytes) -> str:
    return read_text(read_fields(parse(body, "InitiateMultipartUploadResult")), "UploadId")


def read_completed_etag(body: bytes) -> str:
    return read_etag(read_fields(parse(body, "CompleteMultipartUploadResult")))


def read_parts(body: bytes) -> PartsPage:
    root = parse(body, "ListPartsResult")
    parts = [
        StoredPart(
            read_number(fields, "PartNumber"), read_number(fields, "Size"), read_etag(fields)
        )
        for fields in map(read_fields, root.iterfind("{*}Part"))
    ]
    page = read_fields(root)
    return PartsPage(
        parts, read_number(page, "NextPartNumberMarker") if is_truncated(page) else None
    )


def read_objects(body: bytes) -> ObjectsPage:
    root = parse(body, "ListBucketResult")
    page = read_fields(root)
    is_escaped = page.get("EncodingType") == "url"
    objects = [
        read_listed(fields, is_escaped=is_escaped)
        for fields in map(read_fields, root.iterfind("{*}Contents"))
    ]
    return ObjectsPage(
        objects, read_text(page, "NextContinuationToken") if is_truncated(page) else None
    )


def read_listed(fields: Fields, *, is_escaped: bool) -> ListedObject:
    key = read_text(fields, "Key")
    return ListedObject(
        key=unquote_plus(key, errors="strict") if is_escaped else key,
        size=read_number(fields, "Size"),
        etag=strip_quotes(fields.get("ETag", "")),
        last_modified=read_date(read_text(fields, "LastModified")),
    )


def read_undeleted_keys(body: bytes) -> list[str]:
    """Return the keys that the store reports as not deleted."""
    root = parse(body, "DeleteResult")
    return [read_text(read_fields(error), "Key") for error in root.iterfind("{*}Error")]


def read_error_code(body: bytes) -> str:
    return read_text(read_fields(parse(body, "Error")), "Code")


def is_error(body: bytes) -> bool:
    """Return whether the root is `Error`. A DeleteResult has elements of that name further down.

    Blanks may precede the document: a store sends them to keep the connection alive.
    """
    start = body[:4096].lstrip()
    if start.startswith(b"<?xml"):
        start = start.partition(b"?>")[2].lstrip()
    return start.startswith(b"<Error")


def write_completion(parts: Iterable[tuple[int, str]]) -> bytes:
    """Return the CompleteMultipartUpload for `(number, ETag)` pairs."""
    listed = "".join(
        [
            f"<Part><PartNumber>{number}</PartNumber><ETag>&quot;{write_text(etag)}&quot;</ETag></Part>"
            for number, etag in parts
        ]
    )
    return (
        f'<CompleteMultipartUpload xmlns="{NAMESPACE}">{listed}</CompleteMultipartUpload>'.encode()
    )


def write_deletion(keys: Sequence[str]) -> bytes:
    """Return the Delete for these keys, which asks to be told of failures alone."""
    listed = "".join([f"<Object><Key>{write_text(key)}</Key></Object>" for key in keys])
    return f'<Delete xmlns="{NAMESPACE}"><Quiet>true</Quiet>{listed}</Delete>'.encode()


def write_text(text: str) -> str:
    """Return the text escaped. Raises ValueError if XML cannot hold it."""
    if UNWRITABLE.search(text):
        raise ValueError("a character that XML cannot hold")
    return escape(text, WHITESPACE)


def parse(body: bytes, *roots: str) -> ET.Element:
    """Return the root, which has one of these names. Raises ValueError.

    The text is decoded first, so that an encoding named in the document cannot hide a document type.
    """
    text = body.decode("utf-8").strip()
    if "<!DOCTYPE" in text:
        raise ValueError("a document type")
    try:
        root = ET.fromstring(text)  # noqa: S314  # no document type, so no entities
    except ET.ParseError as error:
        raise ValueError("no XML document") from error
    if local_name(root) not in roots:
        raise ValueError(f"no {roots[0]}")
    return root


def local_name(element: ET.Element) -> str:
    return element.tag.rpartition("}")[2]


def read_fields(element: ET.Element) -> Fields:
    return {local_name(child): child.text or "" for child in element if not len(child)}


def read_text(fields: Fields, name: str) -> str:
    """Return a field that is needed and not empty."""
    text = fields.get(name)
    if not text:
        raise ValueError(f"no {name}")
    return text


def read_number(fields: Fields, name: str) -> int:
    text = read_text(fields, name)
    if not (text.isascii() and text.isdecimal()):
        raise ValueError(f"{name} is no number")
    return int(text)


def read_etag(fields: Fields) -> str:
    return strip_quotes(read_text(fields, "ETag"))


def read_date(text: str) -> datetime:
    """Return the time of an ISO 8601 text. A text without a zone is taken as UTC."""
    moment = datetime.fromisoformat(text)
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def is_truncated(page: Fields) -> bool:
    """Return whether more pages follow. Raises ValueError if the document does not say so clearly."""
    answer = read_text(page, "IsTruncated").lower()
    if answer not in ("true", "false"):
        raise ValueError("IsTruncated is neither true nor false")
    return answer == "true"
