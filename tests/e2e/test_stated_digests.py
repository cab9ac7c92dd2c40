"""Digests that a request states about its bytes: each is compared with them, or refused."""

import base64
import hashlib
import os
from collections.abc import Callable, Mapping
from typing import Any

import httpx
import pytest

from service.resources import Resources
from tests.e2e.conftest import Api, Owner
from tests.e2e.jobs import complete, declare, in_pieces, put, read_metadata
from tests.e2e.nothing_left import check_nothing_left
from tests.support.trust import TRUSTED

pytestmark = [pytest.mark.anyio, pytest.mark.one_store]

BYTES = b"hello"
LARGE = os.urandom(9 * 1024**2)  # more than one part
MISMATCH, INVALID = "digest-mismatch", "invalid-request"
Write = Callable[[bytes], dict[str, str]]
"""A function that returns the field with the digest of some bytes."""


def encode(algorithm: str, content: bytes) -> str:
    return base64.b64encode(hashlib.new(algorithm, content).digest()).decode()


def in_dictionary(field: str, name: str, algorithm: str) -> Write:
    return lambda content: {field: f"{name}=:{encode(algorithm, content)}:"}


STATED: dict[str, Write] = {
    "Repr-Digest sha-256": in_dictionary("Repr-Digest", "sha-256", "sha256"),
    "Repr-Digest sha-512": in_dictionary("Repr-Digest", "sha-512", "sha512"),
    "Repr-Digest md5": in_dictionary("Repr-Digest", "md5", "md5"),
    "Content-Digest sha-256": in_dictionary("Content-Digest", "sha-256", "sha256"),
    "Content-Digest sha-512": in_dictionary("Content-Digest", "sha-512", "sha512"),
    "Content-Digest md5": in_dictionary("Content-Digest", "md5", "md5"),
    "Content-MD5": lambda content: {"Content-MD5": encode("md5", content)},
    "Digest sha-256": lambda content: {"Digest": f"SHA-256={encode('sha256', content)}"},
    "Digest md5": lambda content: {"Digest": f"md5={encode('md5', content)}"},
    "without padding": lambda content: {
        "Repr-Digest": f"sha-256=:{encode('sha256', content).rstrip('=')}:"
    },
    "beside an unknown one": lambda content: {
        "Content-Digest": f"crc32c=:AAAAAA==:, sha-256=:{encode('sha256', content)}:"
    },
}
UNKNOWN = [
    {"Repr-Digest": "crc32c=:AAAAAA==:"},
    {"Content-Digest": "sha=:AAAA:"},
    {"Digest": "UNIXsum=30637"},
]
PART = '--b\r\nContent-Disposition: form-data; name="file"; filename="d"\r\n'


def frame(content: bytes, fields: Mapping[str, str] | None = None) -> bytes:
    """Return a form with one file, whose part has these fields as well."""
    lines = "".join(f"{name}: {value}\r\n" for name, value in (fields or {}).items())
    return f"{PART}{lines}\r\n".encode() + content + b"\r\n--b--\r\n"


async def send_raw(client: httpx.AsyncClient, content: bytes, headers: Any) -> httpx.Response:
    return await client.post(
        "/files/upload", params={"filename": "d"}, content=content, headers=headers
    )


async def send_put(client: httpx.AsyncClient, content: bytes, headers: Any) -> httpx.Response:
    return await client.put("/upload/d", content=in_pieces(content), headers=headers)


async def send_part(client: httpx.AsyncClient, content: bytes, headers: Any) -> httpx.Response:
    """Send a form whose part has the headers."""
    return await send_form(client, frame(content, headers))


async def send_form(
    client: httpx.AsyncClient, body: bytes, headers: Mapping[str, str] | None = None
) -> httpx.Response:
    return await client.post(
        "/files/upload",
        content=body,
        headers={"Content-Type": "multipart/form-data; boundary=b", **(headers or {})},
    )


SENDERS = {"raw": send_raw, "put": send_put, "part": send_part}


def check_refused(answer: httpx.Response, kind: str, *, field: str, right: str = "") -> None:
    status = 422 if kind == MISMATCH else 400
    assert (answer.status_code, answer.json()["type"]) == (status, f"urn:assay:problem:{kind}")
    [error] = answer.json()["errors"]
    assert error["field"].removeprefix("file: ") == field
    assert right in error["detail"]


@pytest.mark.parametrize("stated", STATED)
@pytest.mark.parametrize("way", SENDERS)
async def test_a_streamed_file_is_compared_with_each_stated_digest(
    client: httpx.AsyncClient, resources: Resources, owner: Owner, *, stated: str, way: str
) -> None:
    send, write = SENDERS[way], STATED[stated]
    wrong = write(b"other bytes")
    [field] = wrong
    check_refused(await send(client, BYTES, wrong), MISMATCH, field=field)
    await check_nothing_left(resources, owner)
    taken = await send(client, BYTES, write(BYTES))
    assert (taken.status_code, taken.json()["state"]) == (201, "ready"), taken.text
    sha256 = hashlib.sha256(BYTES).hexdigest()
    assert taken.json()["hash"] == sha256
    is_declared = "sha-256" in str(wrong).lower()
    assert taken.json()["declared_sha256"] == (sha256 if is_declared else None)


@pytest.mark.parametrize("stated", ["Content-Digest sha-512", "Content-MD5", "Digest sha-256"])
@pytest.mark.parametrize("way", SENDERS)
async def test_a_file_of_several_parts_is_compared(
    client: httpx.AsyncClient, resources: Resources, owner: Owner, *, stated: str, way: str
) -> None:
    send, write = SENDERS[way], STATED[stated]
    wrong = write(b"other bytes")
    check_refused(await send(client, LARGE, wrong), MISMATCH, field=next(iter(wrong)))
    await check_nothing_left(resources, owner)
    assert (await send(client, LARGE, write(LARGE))).status_code == 201


@pytest.mark.parametrize("stated", STATED)
async def test_a_digest_of_a_form_is_that_of_its_body_or_its_file(
    client: httpx.AsyncClient, resources: Resources, owner: Owner, stated: str
) -> None:
    """Compare Repr-Digest with the file, and the other fields with the whole form."""
    body, write = frame(BYTES), STATED[stated]
    right, wrong = (BYTES, body) if "Repr-Digest" in write(b"") else (body, BYTES)
    refused = await send_form(client, body, write(wrong))
    check_refused(refused, MISMATCH, field=next(iter(write(wrong))))
    await check_nothing_left(resources, owner)
    assert (await send_form(client, body, write(right))).status_code == 201


@pytest.mark.parametrize("headers", UNKNOWN, ids=str)
async def test_an_unknown_algorithm_alone_is_refused(
    client: httpx.AsyncClient, resources: Resources, owner: Owner, headers: dict[str, str]
) -> None:
    [field] = headers
    accepted = "sha-256, sha-512, md5"
    for send in SENDERS.values():
        check_refused(await send(client, BYTES, headers), INVALID, field=field, right=accepted)
    declared = await client.post("/files", json={"filename": "a", "size": 1}, headers=headers)
    check_refused(declared, INVALID, field=field, right=accepted)
    redirected = await client.put("/upload/d", content=BYTES, headers=headers)
    check_refused(redirected, INVALID, field=field, right=accepted)
    await check_nothing_left(resources, owner)


async def test_every_line_of_a_field_is_read(client: httpx.AsyncClient) -> None:
    lines = [("Content-Digest", "crc32c=:AAAAAA==:"), ("Content-Digest", "md5=:AAAA:")]
    refused = await send_raw(client, BYTES, lines)
    check_refused(refused, INVALID, field="Content-Digest", right="md5 must be the base64 of 16")


async def test_two_fields_with_different_digests_are_refused(
    client: httpx.AsyncClient, resources: Resources, owner: Owner
) -> None:
    headers = STATED["Repr-Digest sha-256"](BYTES) | STATED["Digest sha-256"](b"other")
    for answer in (
        await send_raw(client, BYTES, headers),
        await client.put("/upload/d", content=BYTES, headers=headers),
    ):
        check_refused(answer, INVALID, field="Digest", right="another sha-256 than Repr-Digest")
    await check_nothing_left(resources, owner)


@pytest.mark.parametrize("headers", [{"Trailer": "Content-Digest"}, {"Trailer": "x, repr-digest"}])
async def test_a_digest_in_a_trailer_field_is_refused(
    client: httpx.AsyncClient, resources: Resources, owner: Owner, headers: dict[str, str]
) -> None:
    for send in (send_raw, send_put):
        refused = await send(client, BYTES, headers)
        check_refused(refused, INVALID, field="Trailer", right="as a header field")
    await check_nothing_left(resources, owner)


# Redirects


@pytest.mark.parametrize(
    "stated", ["Repr-Digest sha-256", "Content-Digest sha-256", "Digest sha-256", "without padding"]
)
async def test_a_redirect_passes_a_sha256_on(
    client: httpx.AsyncClient, resources: Resources, stated: str
) -> None:
    for content, state in ((BYTES, "ready"), (b"other", "rejected")):
        answer = await client.put("/upload/d", content=BYTES, headers=STATED[stated](content))
        assert answer.status_code == 307, answer.text
        path = answer.headers["link"].partition("<")[2].partition(">")[0]
        declared = (await client.get(path)).json()
        assert declared["declared_sha256"] == hashlib.sha256(content).hexdigest()
        async with httpx.AsyncClient(verify=TRUSTED) as plain:
            sent = await plain.put(answer.headers["location"], content=BYTES)
        assert sent.status_code == 200
        final = (await client.get(path, params={"wait": 30})).json()
        assert final["state"] == state


@pytest.mark.parametrize(
    "stated", ["Repr-Digest sha-512", "Content-Digest md5", "Content-MD5", "Digest md5"]
)
@pytest.mark.parametrize("beside", [False, True])
async def test_a_redirect_refuses_a_digest_that_is_not_compared(
    client: httpx.AsyncClient, resources: Resources, owner: Owner, *, stated: str, beside: bool
) -> None:
    headers = STATED[stated](BYTES)
    [field] = headers
    if beside:
        other = "Digest" if field == "Repr-Digest" else "Repr-Digest"
        headers |= STATED[f"{other} sha-256"](BYTES)
    answer = await client.put("/upload/d", content=BYTES, headers=headers)
    check_refused(answer, INVALID, field=field, right="redirected to the store: state the sha-256")
    await check_nothing_left(resources, owner)


# Other bodies


@pytest.mark.parametrize("stated", STATED)
async def test_a_json_body_is_compared_with_each_stated_digest(
    client: httpx.AsyncClient, resources: Resources, owner: Owner, stated: str
) -> None:
    write, body = STATED[stated], b'{"filename": "a.txt", "size": 5}'
    json = {"Content-Type": "application/json"}
    wrong = write(b"{}")
    refused = await client.post("/files", content=body, headers=wrong | json)
    check_refused(refused, MISMATCH, field=next(iter(wrong)), right="of the body")
    await check_nothing_left(resources, owner)
    taken = await client.post("/files", content=body, headers=write(body) | json)
    assert taken.status_code == 201


@pytest.mark.parametrize("body", [b"", b"{}", b'{"sha256": null}'])
async def test_complete_compares_its_body(client: httpx.AsyncClient, body: bytes) -> None:
    declared = await declare(client, BYTES)
    path = f"/files/{declared['file']['id']}/complete"
    json = {"Content-Type": "application/json"}
    wrong = STATED["Content-Digest sha-256"](b"[]") | json
    check_refused(
        await client.post(path, content=body, headers=wrong), MISMATCH, field="Content-Digest"
    )
    assert (await read_metadata(client, declared))["state"] == "pending"
    assert (await put(declared, BYTES)).status == 200
    right = STATED["Content-Digest sha-256"](body) | json
    assert (await client.post(path, content=body, headers=right)).status_code in (200, 202)


async def test_every_route_with_a_json_body_compares_it(client: httpx.AsyncClient) -> None:
    declared = await declare(client, BYTES)
    await put(declared, BYTES)
    await complete(client, declared)
    path = f"/files/{declared['file']['id']}"
    large = await declare(client, BYTES, multipart=True)
    wrong = STATED["Content-MD5"](b"other")
    for method, target, body in (
        ("PATCH", path, {"filename": "b.txt"}),
        ("POST", f"{path}/links", {"expires_in": 60}),
        ("POST", f"/files/{large['file']['id']}/parts", {"parts": [{"number": 1}]}),
    ):
        refused = await client.request(method, target, json=body, headers=wrong)
        check_refused(refused, MISMATCH, field="Content-MD5")
    assert (await read_metadata(client, declared))["filename"] == "a.txt"


async def test_an_event_with_a_wrong_digest_is_ignored(
    api: Api, client: httpx.AsyncClient, resources: Resources
) -> None:
    declared = await declare(client, BYTES)
    incoming_key = await resources.pool.fetchval(
        "SELECT incoming_key FROM files WHERE id = $1", declared["file"]["id"]
    )
    record = {
        "eventName": "s3:ObjectCreated:Put",
        "s3": {"bucket": {"name": resources.incoming.name}, "object": {"key": incoming_key}},
    }
    request = httpx.Request("POST", "/webhooks/minio", json={"Records": [record]})
    token = {"Authorization": f"Bearer {api.settings.webhook_token[0]}"}
    arrivals = "SELECT arrivals FROM files WHERE incoming_key = $1"
    for content, expected in ((b"other", 0), (request.content, 1)):
        headers = token | STATED["Content-MD5"](content)
        async with httpx.AsyncClient(base_url=api.url, verify=TRUSTED) as store:
            answer = await store.post("/webhooks/minio", content=request.content, headers=headers)
        assert answer.status_code == 204
        assert await resources.pool.fetchval(arrivals, incoming_key) == expected


# What is said about the content besides its digest


@pytest.mark.parametrize("way", [*SENDERS, "redirect", "json"])
async def test_an_encoded_or_partial_body_is_refused(
    client: httpx.AsyncClient, resources: Resources, owner: Owner, way: str
) -> None:
    async def send(headers: dict[str, str]) -> httpx.Response:
        if way == "redirect":
            return await client.put("/upload/d", content=BYTES, headers=headers)
        if way == "json":
            return await client.post("/files", json={"filename": "a", "size": 1}, headers=headers)
        return await SENDERS[way](client, BYTES, headers)

    for coding in ("gzip", "identity, gzip", "aws-chunked"):
        encoded = await send({"Content-Encoding": coding})
        assert encoded.status_code == 415, encoded.text
        assert encoded.json()["errors"][0]["field"].endswith("Content-Encoding")
        assert encoded.headers["accept-encoding"] == "identity"
    partial = await send({"Content-Range": "bytes 0-4/10"})
    check_refused(partial, INVALID, field="Content-Range", right="the whole content")
    await check_nothing_left(resources, owner)
    for coding in ("Identity", "identity,", ""):  # empty elements are ignored (RFC 9110, 5.6.1.2)
        assert (await send({"Content-Encoding": coding})).status_code in (201, 307)
