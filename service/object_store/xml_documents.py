"""The XML documents of the S3 API that the service reads and writes.

    read      CopyObjectResult, CopyPartResult, InitiateMultipartUploadResult,
              CompleteMultipartUploadResult, ListPartsResult, ListBucketResult (version 2),
              DeleteResult, Error
    written   CompleteMultipartUpload, Delete

Stores use different namespaces, so names are compared without them. Reading is strict: a document
that has another root, lacks a required field or has a document type raises ValueError.
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
"""Characters that are written as references, because a parser converts a carriage return to a
newline.
"""
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
"""The texts of an element's children that have no children, by their local names."""


def read_copied_etag(body: bytes) -> str:
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
    root = parse(body, "DeleteResult")
    return [read_text(read_fields(error), "Key") for error in root.iterfind("{*}Error")]


def read_error_code(body: bytes) -> str:
    return read_text(read_fields(parse(body, "Error")), "Code")


def is_error(body: bytes) -> bool:
    """Return whether the root is `Error`. A DeleteResult contains elements of that name.

    White space may precede the document, because a store sends it to keep the connection alive.
    """
    start = body[:4096].lstrip()
    if start.startswith(b"<?xml"):
        start = start.partition(b"?>")[2].lstrip()
    return start.startswith(b"<Error")


def write_completion(parts: Iterable[tuple[int, str]]) -> bytes:
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
    """Return the Delete for these keys. Its response lists only the keys that were not deleted."""
    listed = "".join([f"<Object><Key>{write_text(key)}</Key></Object>" for key in keys])
    return f'<Delete xmlns="{NAMESPACE}"><Quiet>true</Quiet>{listed}</Delete>'.encode()


def write_text(text: str) -> str:
    """Return the escaped text. Raises ValueError if XML cannot contain it."""
    if UNWRITABLE.search(text):
        raise ValueError("the text has a character that XML cannot contain")
    return escape(text, WHITESPACE)


def parse(body: bytes, *roots: str) -> ET.Element:
    """Return the root element.

    Raises ValueError if its name is not one of `roots`, or if the body is not XML.

    The text is decoded first, so that an encoding named in the document cannot hide a document
    type.
    """
    text = body.decode("utf-8").strip()
    if "<!DOCTYPE" in text:
        raise ValueError("the document has a document type")
    try:
        root = ET.fromstring(text)  # noqa: S314  # without a document type there are no entities
    except ET.ParseError as error:
        raise ValueError("the document is not well-formed XML") from error
    if local_name(root) not in roots:
        raise ValueError(f"the root element is not {roots[0]}")
    return root


def local_name(element: ET.Element) -> str:
    return element.tag.rpartition("}")[2]


def read_fields(element: ET.Element) -> Fields:
    return {local_name(child): child.text or "" for child in element if not len(child)}


def read_text(fields: Fields, name: str) -> str:
    """Return the field. Raises ValueError if it is missing or empty."""
    text = fields.get(name)
    if not text:
        raise ValueError(f"the field {name} is missing or empty")
    return text


def read_number(fields: Fields, name: str) -> int:
    text = read_text(fields, name)
    if not (text.isascii() and text.isdecimal()):
        raise ValueError(f"the field {name} is not a number")
    return int(text)


def read_etag(fields: Fields) -> str:
    return strip_quotes(read_text(fields, "ETag"))


def read_date(text: str) -> datetime:
    """Return the time of an ISO 8601 text, in UTC if the text names no time zone."""
    moment = datetime.fromisoformat(text)
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def is_truncated(page: Fields) -> bool:
    """Return whether more pages follow. Raises ValueError if the field is malformed."""
    answer = read_text(page, "IsTruncated").lower()
    if answer not in ("true", "false"):
        raise ValueError("IsTruncated is neither true nor false")
    return answer == "true"
