"""The documents of the S3 API that are read and written."""

from datetime import UTC, datetime
from xml.etree import ElementTree as ET

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.object_store import (
    ListedObject,
    ObjectMissing,
    RequestRefused,
    StoredPart,
    StoreUnavailable,
    xml_documents,
)
from service.object_store.errors import check_answer
from service.object_store.messages import Answer, Request
from service.object_store.xml_documents import ObjectsPage, PartsPage

XMLNS = 'xmlns="http://s3.amazonaws.com/doc/2006-03-01/"'
NAMESPACES = ["", XMLNS, 'xmlns="https://example.com/another"']
WRITABLE = st.text(
    st.characters(
        exclude_categories=["Cs", "Cc"],
        exclude_characters="\ufffe\uffff",
        include_characters="\t\n\r",
    )
)


@pytest.mark.parametrize("namespace", NAMESPACES)
@pytest.mark.parametrize("root", ["CopyObjectResult", "CopyPartResult"])
def test_a_copy_has_an_etag(root: str, namespace: str) -> None:
    body = (
        f"<?xml version='1.0' encoding='UTF-8'?>\n  <{root} {namespace}>"
        f"<LastModified>x</LastModified><ETag>&#34;abc-1&#34;</ETag></{root}>"
    )
    assert xml_documents.read_copied_etag(body.encode()) == "abc-1"


@pytest.mark.parametrize("namespace", NAMESPACES)
def test_an_upload_has_an_id_and_ends_in_an_etag(namespace: str) -> None:
    begun = (
        f"<InitiateMultipartUploadResult {namespace}><Bucket>b</Bucket>"
        "<UploadId>a.b&amp;c</UploadId></InitiateMultipartUploadResult>"
    )
    ended = (
        f'<CompleteMultipartUploadResult {namespace}><ETag>"abc-2"</ETag>'
        "</CompleteMultipartUploadResult>"
    )
    assert xml_documents.read_upload_id(begun.encode()) == "a.b&c"
    assert xml_documents.read_completed_etag(ended.encode()) == "abc-2"


def parts_page(ending: str) -> bytes:
    return (
        f"<ListPartsResult {XMLNS}><Initiator><ID>IsTruncated</ID></Initiator>{ending}"
        "<Part><PartNumber>7</PartNumber><ETag>&quot;e&quot;</ETag><Size>0</Size></Part>"
        "</ListPartsResult>"
    ).encode()


def test_a_page_of_parts_says_where_the_next_begins() -> None:
    parts = [StoredPart(7, 0, "e")]
    more = "<IsTruncated>true</IsTruncated><NextPartNumberMarker>7</NextPartNumberMarker>"
    last = "<IsTruncated>false</IsTruncated><NextPartNumberMarker>7</NextPartNumberMarker>"
    assert xml_documents.read_parts(parts_page(more)) == PartsPage(parts, 7)
    assert xml_documents.read_parts(parts_page(last)) == PartsPage(parts, None)


def objects_page(ending: str, key: str = "a%2Fb+c%25") -> bytes:
    return (
        f"<ListBucketResult {XMLNS}><Name>b</Name>{ending}<Contents><Key>{key}</Key>"
        "<LastModified>2026-11-28T01:02:03.004Z</LastModified><ETag>&#34;e&#34;</ETag>"
        "<Size>5</Size><Owner><ID>x</ID></Owner></Contents></ListBucketResult>"
    ).encode()


def test_a_page_of_objects_is_read_with_its_keys_unescaped() -> None:
    modified = datetime(2026, 11, 28, 1, 2, 3, 4000, tzinfo=UTC)
    plain = "<IsTruncated>false</IsTruncated>"
    more = (
        "<EncodingType>url</EncodingType><IsTruncated>true</IsTruncated>"
        "<NextContinuationToken>t/=</NextContinuationToken>"
    )
    assert xml_documents.read_objects(objects_page(more)) == ObjectsPage(
        [ListedObject("a/b c%", 5, "e", modified)], "t/="
    )
    assert xml_documents.read_objects(objects_page(plain)).objects[0].key == "a%2Fb+c%25"


def test_keys_that_were_not_deleted_are_named() -> None:
    error = "<Error><Code>AccessDenied</Code><Key>b&amp;&#13;</Key></Error>"
    body = f"<DeleteResult {XMLNS}><Deleted><Key>a</Key></Deleted>{error}</DeleteResult>"
    assert xml_documents.read_undeleted_keys(body.encode()) == ["b&\r"]
    assert xml_documents.read_undeleted_keys(f"<DeleteResult {XMLNS}/>".encode()) == []


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"bytes",
        b"<html><ETag>x</ETag></html>",
        b"<CopyObjectResult/>",
        b"<CopyObjectResult><ETag/></CopyObjectResult>",
        b"<CopyObjectResult><Deeper><ETag>x</ETag></Deeper></CopyObjectResult>",
        b"<CopyObjectResult><ETag>x</ETag>",
        b"<CopyObjectResult><ETag>\xff</ETag></CopyObjectResult>",
        b"<CopyObjectResult><ETag>&e;</ETag></CopyObjectResult>",
        b"<!DOCTYPE CopyObjectResult><CopyObjectResult><ETag>x</ETag></CopyObjectResult>",
        b'<!DOCTYPE a [<!ENTITY e "x">]><CopyObjectResult><ETag>&e;</ETag></CopyObjectResult>',
        (
            '<?xml version="1.0" encoding="UTF-16"?><!DOCTYPE a>'
            "<CopyObjectResult><ETag>x</ETag></CopyObjectResult>"
        ).encode("utf-16"),
    ],
)
def test_an_invalid_copy_result_is_not_read(body: bytes) -> None:
    with pytest.raises(ValueError):  # noqa: PT011  # the standard library's texts differ
        xml_documents.read_copied_etag(body)


@pytest.mark.parametrize(
    "ending",
    [
        "",
        "<IsTruncated/>",
        "<IsTruncated>perhaps</IsTruncated>",
        "<IsTruncated>true</IsTruncated>",
        (
            "<IsTruncated>true</IsTruncated><NextPartNumberMarker>-7</NextPartNumberMarker>"
            "<NextContinuationToken/>"
        ),
    ],
)
def test_a_page_that_does_not_say_where_to_continue_is_not_read(ending: str) -> None:
    with pytest.raises(ValueError, match=r"IsTruncated|NextPartNumberMarker"):
        xml_documents.read_parts(parts_page(ending))
    with pytest.raises(ValueError, match=r"IsTruncated|NextContinuationToken"):
        xml_documents.read_objects(objects_page(ending))


def test_a_key_that_is_not_escaped_as_promised_is_not_read() -> None:
    with pytest.raises(ValueError, match="utf-8"):
        xml_documents.read_objects(
            objects_page(
                "<EncodingType>url</EncodingType><IsTruncated>false</IsTruncated>", key="%FF"
            )
        )


@given(st.lists(WRITABLE.filter(bool), max_size=5))
def test_a_deletion_names_every_key_as_it_is(keys: list[str]) -> None:
    root = ET.fromstring(xml_documents.write_deletion(keys))  # noqa: S314  # written above
    assert root.findtext("{*}Quiet") == "true"
    assert [element.text for element in root.iterfind("{*}Object/{*}Key")] == keys


@given(st.lists(st.tuples(st.integers(1, 10_000), WRITABLE), max_size=5))
def test_a_completion_names_every_part(parts: list[tuple[int, str]]) -> None:
    root = ET.fromstring(xml_documents.write_completion(parts))  # noqa: S314  # written above
    found = [
        (int(part.findtext("{*}PartNumber", "")), part.findtext("{*}ETag"))
        for part in root.iterfind("{*}Part")
    ]
    assert found == [(number, f'"{etag}"') for number, etag in parts]


@pytest.mark.parametrize("key", ["\x00", "\x1f", "\ufffe"])
def test_a_key_that_no_document_can_hold_is_not_written(key: str) -> None:
    with pytest.raises(ValueError, match="XML"):
        xml_documents.write_deletion([key])


# The error code of a response


def answer(status: int, body: bytes, headers: dict[str, str] | None = None) -> Answer:
    return Answer(status, headers or {}, body)


def test_the_code_is_in_the_document_the_json_or_the_header() -> None:
    get = Request("GET", "vault", "k")
    with pytest.raises(ObjectMissing) as xml:
        check_answer(
            get,
            answer(
                404,
                f"<Error {XMLNS}><Code>NoSuchKey</Code></Error>".encode(),
                {"x-minio-error-code": "Another"},
            ),
        )
    with pytest.raises(ObjectMissing) as header:
        check_answer(get, answer(404, b"", {"x-minio-error-code": "NoSuchKey"}))
    with pytest.raises(RequestRefused) as json:
        check_answer(
            Request("GET", "minio/admin"),
            answer(404, b'{"Code": "XMinioAdminNoSuchUser", "Message": "x"}'),
        )
    assert [error.value.code for error in (xml, header, json)] == [
        "NoSuchKey",
        "NoSuchKey",
        "XMinioAdminNoSuchUser",
    ]


@pytest.mark.parametrize(
    "body",
    [
        b"<Error/>",
        b"<html>",
        b"{",
        b'{"Code": 1}',
        b"[]",
        b"<!DOCTYPE Error><Error><Code>NoSuchKey</Code></Error>",
    ],
)
def test_a_response_that_cannot_be_read_has_no_code(body: bytes) -> None:
    with pytest.raises(StoreUnavailable) as raised:
        check_answer(Request("PUT", "vault", "k"), answer(503, body))
    assert raised.value.code is None


def test_a_success_with_an_error_document_is_a_failure() -> None:
    copy = Request("PUT", "vault", "k", headers={"x-amz-copy-source": "/incoming/k"})
    with pytest.raises(StoreUnavailable) as unnamed:
        check_answer(copy, answer(200, b"  <Error/>"))
    assert unnamed.value.code == "UnnamedError"
    assert check_answer(copy, answer(200, b"<CopyObjectResult/>")).status == 200
