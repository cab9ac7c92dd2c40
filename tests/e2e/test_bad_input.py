"""Tests of invalid requests.

Each gets a problem document that names the wrong field, and stores nothing.
"""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from service.resources import Resources
from tests.e2e.conftest import Api, Owner
from tests.e2e.jobs import declare, in_pieces, read_metadata
from tests.e2e.rights import NO_FILE, ON_A_FILE, ROUTES
from tests.support.trust import TRUSTED

pytestmark = [pytest.mark.anyio, pytest.mark.one_store]

GOOD: dict[str, Any] = {"filename": "a.txt", "size": 1}
HARMLESS = "harmless.txt"
"""The name of the only file that a test here may store."""
FIELDS: list[tuple[dict[str, Any], int, str, str]] = [
    # the field that is sent, the status, the field that is named, and the advice
    ({"colour": "red"}, 400, "colour", "omit it"),
    ({"size": "1"}, 400, "size", "Expected `int`"),
    ({"size": -1}, 400, "size", ">= 0"),
    ({"size": 1.5}, 400, "size", "Expected `int`"),
    ({"size": True}, 400, "size", "Expected `int`"),
    ({"size": None}, 400, "size", "Expected `int`"),
    ({"size": 5 * 1024**3 + 1, "multipart": False}, 413, "size", "5368709120"),
    ({"size": 5 * 1024**4 + 1}, 413, "size", "5497558138880"),
    ({"size": 2**70}, 413, "size", "5497558138880"),
    ({"filename": ""}, 400, "filename", "1 to 255"),
    ({"filename": "a" * 256}, 400, "filename", "1 to 255"),
    ({"filename": "ä" * 128}, 400, "filename", "1 to 255"),
    ({"filename": "a\x00b"}, 400, "filename", "printable"),
    ({"filename": "a\nb"}, 400, "filename", "printable"),
    ({"filename": "a/b"}, 400, "filename", "without its folders"),
    ({"filename": "a\\b"}, 400, "filename", "without its folders"),
    ({"filename": ".."}, 400, "filename", "send the name of a file"),
    ({"filename": 1}, 400, "filename", "Expected `str`"),
    ({"content_type": "text"}, 400, "content_type", "such as text/plain"),
    ({"content_type": "text/plain\r\nX-Evil: 1"}, 400, "content_type", "such as text/plain"),
    ({"sha256": "abc"}, 400, "sha256", "64 hexadecimal digits"),
    ({"sha256": "g" * 64}, 400, "sha256", "64 hexadecimal digits"),
    ({"metadata": {"a": 1}}, 400, "metadata[...]", "Expected `str`"),
    ({"metadata": {"a": "\x00"}}, 400, "metadata", "without it"),
    ({"metadata": {"a": "x" * 5000}}, 400, "metadata", "at most 4096"),
    ({"metadata": {str(number): "" for number in range(33)}}, 400, "metadata", "at most 32"),
    ({"metadata": "x"}, 400, "metadata", "Expected `object | null`"),
    ({"multipart": "yes"}, 400, "multipart", "Expected `bool | null`"),
    ({"owner": ""}, 403, "owner", "omit the owner"),
    ({"owner": "somebody"}, 403, "owner", "omit the owner"),
]
QUERIES = [
    ("limit=0", "limit", ">= 1"),
    ("limit=1001", "limit", "<= 1000"),
    ("limit=x", "limit", "Expected `int`"),
    ("limit=1&limit=2", "limit", "more than once"),
    ("filename=caf%E9.txt", "filename", "must be UTF-8"),
    ("filename=%ff", "filename", "must be UTF-8"),
    ("filename=%ed%a0%80", "filename", "must be UTF-8"),
    ("state=%e9", "state", "must be UTF-8"),
    ("caf%E9=1", "caf?", "not a parameter of this route"),
    ("limit", "limit", "Expected `int`"),
    ("nope=1", "nope", "not a parameter of this route"),
    ("state=unknown", "state", "one of pending, verifying"),
    ("cursor=nope", "cursor", "begin again without a cursor"),
    ("cursor=%00", "cursor", "without it"),
    ("cursor=ä", "cursor", "begin again without a cursor"),
    ("filename=a%00", "filename", "without it"),
    ("content_type=%00", "content_type", "without it"),
    ("content_type=", "content_type", "such as text/plain"),
    ("content_type=image", "content_type", "such as text/plain"),
    ("hash=abc", "hash", "64 hexadecimal digits"),
    ("created_after=yesterday", "created_after", "RFC 3339"),
    ("created_after=2026", "created_after", "such as 2026-01-31T12:00:00Z"),
    ("created_after=2026-01-31T00:00:00", "created_after", "2026-01-31T12:00:00Z"),
    ("created_after=0001-01-01T00:00:00%2B05:00", "created_after", "1 to 9999"),
    ("created_before=9999-12-31T23:59:59-05:00", "created_before", "1 to 9999"),
    ("created_before=10000-01-01T00:00:00Z", "created_before", "RFC 3339"),
]
BODIES: list[tuple[bytes, int, str]] = [
    (b"", 400, "malformed-body"),
    (b"nope", 400, "malformed-body"),
    (b"{", 400, "malformed-body"),
    (b'{"filename": "\\ud800", "size": 1}', 400, "malformed-body"),
    (b'{"filename": "\xff", "size": 1}', 400, "malformed-body"),
    (b'{"metadata":' + b"[" * 5000, 400, "invalid-request"),
    (b'{"a":' * 5000, 400, "invalid-request"),
    (b"[]", 400, "invalid-request"),
    (b"null", 400, "invalid-request"),
    (
        b'{"filename": "a", "size": 1, "metadata": {"a": "' + b"x" * 65536 + b'"}}',
        413,
        "body-too-large",
    ),
]


def check_problem(answer: httpx.Response, status: int) -> dict[str, Any]:
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    document: dict[str, Any] = answer.json()
    assert document["status"] == status
    assert document["type"].startswith("urn:assay:problem:")
    return document


def check_named(answer: httpx.Response, status: int, field: str, right: str) -> None:
    """Check that the problem names the one wrong field and says what is expected."""
    [error] = check_problem(answer, status)["errors"]
    assert error["field"] == field
    assert right in error["detail"]


@pytest.fixture(autouse=True)
async def nothing_is_stored(resources: Resources, owner: Owner) -> AsyncIterator[None]:
    """Check after each test that the refused requests have stored nothing."""
    yield
    assert (
        await resources.pool.fetch(
            "SELECT 1 FROM files WHERE owner = $1 AND filename <> $2", owner.name, HARMLESS
        )
        == []
    )
    assert (
        await resources.pool.fetch("SELECT 1 FROM reservations WHERE owner = $1", owner.name) == []
    )


@pytest.mark.parametrize(
    ("wrong", "status", "field", "right"),
    FIELDS,
    ids=lambda value: json.dumps(value)[:40] if isinstance(value, dict) else None,
)
async def test_a_wrong_field_is_named_with_advice(
    client: httpx.AsyncClient, *, wrong: dict[str, Any], status: int, field: str, right: str
) -> None:
    check_named(await client.post("/files", json=GOOD | wrong), status, field, right)


ABSENT: list[dict[str, Any]] = [
    {"content_type": ""},
    {"content_type": None},
    {"metadata": None},
    {"sha256": None, "multipart": None, "owner": None},
]


@pytest.mark.parametrize("empty", ABSENT, ids=json.dumps)
async def test_an_empty_member_counts_as_absent(
    client: httpx.AsyncClient, empty: dict[str, Any]
) -> None:
    answer = await client.post("/files", json=GOOD | {"filename": HARMLESS} | empty)
    assert answer.status_code == 201, answer.text
    file = answer.json()["file"]
    assert (file["content_type"], file["metadata"]) == ("application/octet-stream", {})
    assert "Content-Type" not in answer.json()["upload"]["headers"]


async def test_an_empty_member_gives_the_same_idempotent_request(client: httpx.AsyncClient) -> None:
    declaration, key = GOOD | {"filename": HARMLESS}, {"Idempotency-Key": "one"}
    first = await client.post("/files", json=declaration, headers=key)
    again = await client.post(
        "/files", json=declaration | {"content_type": "", "metadata": None}, headers=key
    )
    assert (first.status_code, again.status_code) == (201, 200)
    assert again.json()["file"]["id"] == first.json()["file"]["id"]


@pytest.mark.parametrize("missing", ["filename", "size"])
async def test_a_missing_field_is_named(client: httpx.AsyncClient, missing: str) -> None:
    problem = check_problem(
        await client.post(
            "/files", json={name: value for name, value in GOOD.items() if name != missing}
        ),
        400,
    )
    assert problem["errors"] == [{"field": missing, "detail": "is required"}]


@pytest.mark.parametrize(
    ("body", "status", "kind"),
    BODIES,
    ids=lambda value: repr(value[:20]) if isinstance(value, bytes) else None,
)
async def test_a_body_that_is_not_a_declaration_is_refused(
    client: httpx.AsyncClient, *, body: bytes, status: int, kind: str
) -> None:
    answer = await client.post("/files", content=body, headers={"Content-Type": "application/json"})
    problem = check_problem(answer, status)
    assert problem["type"] == f"urn:assay:problem:{kind}"
    assert problem["detail"]


async def test_a_body_without_a_length_has_the_same_size_limit(client: httpx.AsyncClient) -> None:
    async def endless() -> Any:
        for _ in range(1000):
            yield b"x" * 1024

    answer = await client.post(
        "/files", content=endless(), headers={"Content-Type": "application/json"}
    )
    check_problem(answer, 413)


@pytest.mark.parametrize("media_type", ["text/plain", "application/x-www-form-urlencoded", ""])
async def test_another_media_type_is_refused(client: httpx.AsyncClient, media_type: str) -> None:
    answer = await client.post(
        "/files", content=json.dumps(GOOD).encode(), headers={"Content-Type": media_type}
    )
    assert "Content-Type: must be application/json" in check_problem(answer, 415)["detail"]


@pytest.mark.parametrize("key", ["", "a b", "x" * 256, "tab\there"])
async def test_an_idempotency_key_is_visible_ascii(client: httpx.AsyncClient, key: str) -> None:
    check_named(
        await client.post("/files", json=GOOD, headers={"Idempotency-Key": key}),
        400,
        "Idempotency-Key",
        "1 to 255 visible ASCII",
    )


@pytest.mark.parametrize(("query", "field", "right"), QUERIES)
async def test_a_wrong_parameter_is_named(
    client: httpx.AsyncClient, *, query: str, field: str, right: str
) -> None:
    check_named(await client.get(f"/files?{query}"), 400, field, right)


@pytest.mark.parametrize(
    "query",
    [
        "filename=",
        "filename=" + "%F4%8F%BF%BF" * 1200 + "*",
        "filename=" + "%F4%8F%BF%BF" * 1200,
        "filename=a" + "%F4%8F%BF%BF" * 1200 + "*",
        "filename=" + "a" * 5000 + "*",
    ],
    ids=lambda query: query[:20],
)
async def test_an_odd_but_harmless_filter_finds_nothing(
    client: httpx.AsyncClient, query: str
) -> None:
    await declare(client, b"x", filename=HARMLESS)
    answer = await client.get(f"/files?{query}")
    assert (answer.status_code, answer.json()["files"]) == (200, [])
    assert [
        file["filename"] for file in (await client.get("/files?filename=*")).json()["files"]
    ] == [HARMLESS]


@pytest.mark.parametrize(
    ("method", "path"),
    [
        (route.method, route.asked)
        for route in ROUTES
        if not route.path.startswith(("/l/", "/webhooks/", "/page/")) and route.path != "/"
    ],
)
async def test_a_parameter_that_no_route_knows_is_refused(
    client: httpx.AsyncClient, *, method: str, path: str
) -> None:
    answer = await client.request(method, path.format(id=NO_FILE) + "?dispositon=inline")
    assert answer.status_code == 400
    if method != "HEAD":
        check_named(answer, 400, "dispositon", "not a parameter of this route")


@pytest.mark.parametrize("path", ["/l/x", "/webhooks/minio"])
async def test_a_link_and_the_webhook_accept_any_parameter(
    client: httpx.AsyncClient, path: str
) -> None:
    query = "?utm_source=%ff&utm_source=b"
    for method in ("GET", "POST", "HEAD"):
        given = await client.request(method, path + query)
        assert given.status_code == (await client.request(method, path)).status_code


@pytest.mark.parametrize(
    ("query", "field", "right"),
    [
        ("filename=caf%E9.txt", "filename", "must be UTF-8"),
        ("filename=a&metadata=%7B%22a%22%3A%22%E9%22%7D", "metadata", "must be UTF-8"),
        ("filename=a&metdata=%7B%7D", "metdata", "filename, metadata"),
        ("filename=a&filename=b", "filename", "more than once"),
        ("filename=a&metadata=%7B%7D&metadata=%7B%7D", "metadata", "more than once"),
        ("filename=a%00", "filename", "without it"),
        ("filename=a&metadata=" + "%5B" * 10_000, "metadata", "JSON object"),
        ("filename=a&metadata=%7B%22a%22%3A" + "%5B" * 10_000, "metadata", "JSON object"),
    ],
    ids=lambda value: value[:40],
)
async def test_a_wrong_parameter_of_an_upload_is_named(
    client: httpx.AsyncClient, *, query: str, field: str, right: str
) -> None:
    check_named(await client.post(f"/files/upload?{query}", content=b"x"), 400, field, right)


@pytest.mark.parametrize("field", ["If-Match", "If-Unmodified-Since"])
async def test_a_condition_on_a_change_is_refused_and_not_ignored(
    client: httpx.AsyncClient, field: str
) -> None:
    declared = await client.post("/files", json={"filename": HARMLESS, "size": 1})
    headers, path = {field: '"x"'}, f"/files/{declared.json()['file']['id']}"
    for answer in (
        await client.delete(path, headers=headers),
        await client.patch(path, headers=headers, json={"filename": "other"}),
        await client.post("/files/upload?filename=a", headers=headers, content=b"x"),
    ):
        check_named(answer, 400, field, "by GET and HEAD only")
    kept = (await client.get(f"{path}/metadata")).json()
    assert (kept["state"], kept["filename"]) == ("pending", HARMLESS)


@pytest.mark.parametrize("coding", ["base64", "quoted-printable"])
async def test_a_body_that_is_encoded_for_mail_is_refused(
    client: httpx.AsyncClient, coding: str
) -> None:
    headers = {"Content-Transfer-Encoding": coding}
    for method, path in (("POST", "/files/upload?filename=a"), ("PUT", "/upload/a")):
        answer = await client.request(method, path, headers=headers, content=b"aGVsbG8=")
        check_named(answer, 400, "Content-Transfer-Encoding", "send the bytes as they are")


async def test_an_admin_names_an_owner_or_none(api: Api) -> None:
    admin = api.new_owner(scopes=("admin",))
    async with httpx.AsyncClient(base_url=api.url, headers=admin.headers, verify=TRUSTED) as client:
        declared = {"filename": "a", "size": 1, "owner": ""}
        check_named(await client.post("/files", json=declared), 400, "owner", "1 to 200 bytes")
        for path in ("/files?owner=", "/events?owner="):
            check_named(await client.get(path), 400, "owner", "1 to 200 bytes")


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("Content-Disposition", ("attachment; filename=a", "attachment; filename=b")),
        ("Content-Type", ("text/plain", "text/html")),
        ("Idempotency-Key", ("a", "b")),
    ],
)
async def test_a_field_with_one_value_is_not_given_twice(
    client: httpx.AsyncClient, name: str, values: tuple[str, str]
) -> None:
    answer = await client.post(
        "/files/upload?filename=a", headers=[(name, value) for value in values], content=b"x"
    )
    check_named(answer, 400, name, "more than once")


async def test_a_path_and_a_disposition_must_not_name_two_files(client: httpx.AsyncClient) -> None:
    for content in (b"x", in_pieces(b"x")):
        answer = await client.put(
            "/upload/a", content=content, headers={"Content-Disposition": "inline; filename=b"}
        )
        check_named(answer, 400, "Content-Disposition", "omit it")


async def test_an_empty_owner_counts_as_another_owner(client: httpx.AsyncClient) -> None:
    check_named(await client.get("/files?owner="), 403, "owner", "omit the owner")


async def test_a_cursor_of_other_filters_or_another_owner_is_refused(
    api: Api, client: httpx.AsyncClient
) -> None:
    for name in ("a", "b"):
        assert (
            await client.post(
                "/files", json=GOOD | {"filename": HARMLESS, "metadata": {"name": name}}
            )
        ).status_code == 201
    cursor = (await client.get("/files?limit=1")).json()["next"]
    assert check_problem(
        await client.get("/files", params={"cursor": cursor, "state": "ready"}), 400
    )["type"].endswith("invalid-cursor")
    async with httpx.AsyncClient(
        base_url=api.url, headers=api.new_owner().headers, verify=TRUSTED
    ) as other:
        check_problem(await other.get("/files", params={"cursor": cursor}), 400)


@pytest.mark.parametrize(
    ("wait", "right"),
    [("-1", ">= 0"), ("51", "<= 50"), ("1.5", "`int`"), ("x", "`int`"), ("nan", "`int`")],
)
async def test_a_wait_outside_its_range_is_refused(
    client: httpx.AsyncClient, wait: str, right: str
) -> None:
    for answer in (
        await client.get(f"/files/{NO_FILE}/metadata", params={"wait": wait}),
        await client.post(f"/files/{NO_FILE}/complete", params={"wait": wait}),
    ):
        check_named(answer, 400, "wait", right)


@pytest.mark.parametrize("file_id", ["nope", "0", "%00", NO_FILE + "0", NO_FILE[:-1]])
@pytest.mark.parametrize(
    ("method", "path"), [route for route in ON_A_FILE if route[1].startswith("/files/")]
)
async def test_an_id_that_is_not_a_uuid_gets_404(
    client: httpx.AsyncClient, *, method: str, path: str, file_id: str
) -> None:
    answer = await client.request(method, path.format(id=file_id))
    assert answer.status_code == 404
    if method != "HEAD":
        check_problem(answer, 404)


async def test_an_unknown_route_and_a_wrong_method_get_problem_documents(
    client: httpx.AsyncClient,
) -> None:
    check_problem(await client.get("/nope"), 404)
    answer = await client.patch("/files")
    check_problem(answer, 405)
    assert {"GET", "POST"} <= set(answer.headers["allow"].split(", "))


@pytest.mark.parametrize(
    ("name", "right"),
    [
        ("a%00b", "printable"),
        ("a%0Ab", "printable"),
        ("%2e%2e%2fa", "without its folders"),
        ("a/b", "without its folders"),
        ("a%5Cb", "without its folders"),
        ("%2e%2e", "send the name of a file"),
        ("%ff", "percent-encode"),
        ("x" * 256, "1 to 255"),
    ],
)
@pytest.mark.parametrize("whole", [True, False], ids=["with a length", "without"])
async def test_a_name_in_the_path_is_checked_like_a_declared_name(
    client: httpx.AsyncClient, *, name: str, right: str, whole: bool
) -> None:
    answer = await client.put(f"/upload/{name}", content=b"x" if whole else in_pieces(b"x"))
    check_named(answer, 400, "filename", right)


async def test_an_upload_path_without_a_name_gets_404(client: httpx.AsyncClient) -> None:
    check_problem(await client.put("/upload/", content=b"x"), 404)


async def test_a_put_that_is_too_large_for_the_store_is_refused_before_its_body(
    api: Api, owner: Owner
) -> None:
    head = (
        f"PUT /upload/a HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {owner.key}\r\n"
        f"Content-Length: {5 * 1024**3 + 1}\r\n\r\n"
    )
    answer = await exchange(api, head.encode())
    assert answer.startswith(b"HTTP/1.1 413 ")
    assert b"urn:assay:problem:file-too-large" in answer


async def exchange(api: Api, request: bytes) -> bytes:
    """Send the bytes of a request that no client library would send, and return the response."""
    host, _, port = api.url.removeprefix("http://").partition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(request)
    await writer.drain()
    head = await reader.readuntil(b"\r\n\r\n")
    length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0] or 0)
    body = await reader.readexactly(length)
    writer.close()
    await writer.wait_closed()
    return head + body


@pytest.mark.parametrize(
    ("digest", "right"),
    [
        ("nope", "sha-256=:BASE64:"),
        ("sha-256=abc", "sha-256=:BASE64:"),
        ("sha-256=:AA==:", "base64 of 32 bytes"),
    ],
)
async def test_a_malformed_repr_digest_is_refused(
    client: httpx.AsyncClient, digest: str, right: str
) -> None:
    headers = {"Repr-Digest": digest}
    for answer in (
        await client.put("/upload/a", content=b"x", headers=headers),
        await client.put("/upload/a", content=in_pieces(b"x"), headers=headers),
        await client.post("/files/upload", params={"filename": "a"}, content=b"x", headers=headers),
    ):
        check_named(answer, 400, "Repr-Digest", right)


@pytest.mark.parametrize(
    ("body", "field", "right"),
    [
        ({"sha256": "x"}, "sha256", "64 hexadecimal digits"),
        ({"sha256": "g" * 64}, "sha256", "64 hexadecimal digits"),
        ({"sha256": 1}, "sha256", "Expected `str | null`"),
        ({"digest": "x"}, "digest", "omit it"),
        ([], "body", "Expected `object | null`"),
    ],
)
async def test_complete_checks_its_body_strictly(
    client: httpx.AsyncClient, *, body: Any, field: str, right: str
) -> None:
    declared = await declare(client, b"x", filename=HARMLESS)
    answer = await client.post(f"/files/{declared['file']['id']}/complete", json=body)
    check_named(answer, 400, field, right)
    assert (await read_metadata(client, declared))["declared_sha256"] is None
