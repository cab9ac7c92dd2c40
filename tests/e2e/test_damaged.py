"""A damaged file over HTTP: its bytes are not read, and its owner sends them again."""

import asyncio
import base64
import hashlib
import io
import os
from collections.abc import Mapping
from typing import Any

import httpx
import pytest

from assay import Client
from assay.errors import AlreadyUploaded, Damaged, DigestMismatch
from service.resources import Resources
from service.uploads.buffers import PART_BYTES
from tests.e2e.conftest import Api, Owner
from tests.e2e.jobs import declare, in_pieces, put, stream
from tests.e2e.leaks import keep_secret
from tests.support.damage import make_damaged
from tests.support.invariants import check_history
from tests.support.trust import TRUSTED

pytestmark = [pytest.mark.anyio, pytest.mark.one_store]

BODY = os.urandom(70_000)
LARGE = os.urandom(PART_BYTES + 5)


@pytest.fixture
async def damaged(client: httpx.AsyncClient, resources: Resources) -> dict[str, Any]:
    return await send_damaged(client, resources, BODY)


async def send_damaged(
    client: httpx.AsyncClient, resources: Resources, content: bytes
) -> dict[str, Any]:
    """Return the metadata of a damaged file whose object is missing."""
    file = await stream(client, content, "photo.jpg")
    await resources.vault.delete(file["minio_object_name"])
    await make_damaged(resources.pool, file["id"])
    return file


async def resend(
    client: httpx.AsyncClient,
    file: Mapping[str, Any],
    content: Any,
    headers: Mapping[str, str] | None = None,
) -> httpx.Response:
    return await client.post(f"/files/{file['id']}/upload", content=content, headers=headers)


def check_problem(answer: httpx.Response, status: int, kind: str, said: str = "") -> None:
    document = answer.json()
    assert (answer.status_code, document["type"]) == (status, f"urn:assay:problem:{kind}")
    assert said in document.get("detail", "")


async def check_state(client: httpx.AsyncClient, file: Mapping[str, Any], state: str) -> None:
    found = (await client.get(f"/files/{file['id']}/metadata")).json()
    assert found["state"] == state


@pytest.mark.parametrize("chunked", [False, True], ids=["length", "chunked"])
@pytest.mark.parametrize("content", [b"", BODY, LARGE], ids=["empty", "small", "large"])
async def test_the_bytes_of_a_damaged_file_are_its_body(
    client: httpx.AsyncClient, resources: Resources, content: bytes, *, chunked: bool
) -> None:
    file = await send_damaged(client, resources, content)
    digest = base64.b64encode(hashlib.sha256(content).digest()).decode()
    answer = await resend(
        client,
        file,
        in_pieces(content) if chunked else content,
        {"Repr-Digest": f"sha-256=:{digest}:", "Content-Type": "application/octet-stream"},
    )
    assert answer.status_code == 200, answer.text
    assert answer.json()["upload"] is None
    found = (await client.get(f"/files/{file['id']}/metadata")).json()
    assert answer.json()["file"] == found
    assert found == file | {"minio_object_name": found["minio_object_name"]}
    assert found["minio_object_name"] != file["minio_object_name"]
    assert (await client.get(f"/files/{file['id']}")).content == content
    check_problem(await resend(client, file, content), 409, "already-uploaded")
    await check_history(resources)


async def test_an_event_says_that_the_file_is_ready_again(
    client: httpx.AsyncClient, damaged: dict[str, Any]
) -> None:
    assert (await resend(client, damaged, BODY)).status_code == 200
    history = (await client.get(f"/files/{damaged['id']}/history")).json()["history"]
    assert [one["state"] for one in history] == ["ready", "damaged", "ready"]
    assert (history[-1]["by"], history[-1]["why"]) == ("client", "the bytes were sent again")


async def test_a_request_without_a_body_says_to_send_the_bytes(
    client: httpx.AsyncClient, damaged: dict[str, Any]
) -> None:
    for body in (None, b"", in_pieces(b"")):
        answer = await resend(client, damaged, body)
        check_problem(answer, 400, "invalid-request", "send its 70000 bytes as the body")
    await check_state(client, damaged, "damaged")


@pytest.mark.parametrize(
    ("headers", "status", "kind", "said"),
    [
        ({"Idempotency-Key": "k"}, 400, "invalid-request", "Idempotency-Key: is not supported"),
        ({"Content-Type": "image/png"}, 415, "unsupported-media-type", "Content-Type: must be"),
        (
            {"Content-Type": "multipart/form-data; boundary=x"},
            415,
            "unsupported-media-type",
            "not in a form",
        ),
        ({"Content-Encoding": "gzip"}, 415, "unsupported-media-type", "must not be encoded"),
        ({"Content-Range": "bytes 0-9/70000"}, 400, "invalid-request", "Content-Range"),
        (
            {"Content-Disposition": "attachment; filename=other"},
            400,
            "invalid-request",
            "names another file",
        ),
        ({"Repr-Digest": "sha-256=:AAAA:"}, 400, "invalid-request", "Repr-Digest"),
        ({"Content-MD5": "A" * 22 + "=="}, 422, "digest-mismatch", "Content-MD5"),
        (
            {"Digest": f"SHA-256={base64.b64encode(bytes(32)).decode()}"},
            422,
            "digest-mismatch",
            "the file stays damaged",
        ),
    ],
)
async def test_what_the_request_states_is_checked_or_refused(
    client: httpx.AsyncClient,
    damaged: dict[str, Any],
    headers: dict[str, str],
    status: int,
    kind: str,
    said: str,
) -> None:
    check_problem(await resend(client, damaged, BODY, headers), status, kind, said)
    await check_state(client, damaged, "damaged")


@pytest.mark.parametrize("content", [BODY[:-1], BODY + b"x", bytes(len(BODY))])
@pytest.mark.parametrize("chunked", [False, True], ids=["length", "chunked"])
async def test_other_bytes_are_refused(
    client: httpx.AsyncClient, damaged: dict[str, Any], content: bytes, *, chunked: bool
) -> None:
    answer = await resend(client, damaged, in_pieces(content) if chunked else content)
    check_problem(answer, 422, "digest-mismatch", "the file stays damaged")
    await check_state(client, damaged, "damaged")


async def test_a_body_for_a_pending_file_is_refused(client: httpx.AsyncClient) -> None:
    declared = await declare(client, BODY)
    for content in (BODY, in_pieces(BODY)):
        answer = await resend(client, declared["file"], content)
        check_problem(answer, 400, "invalid-request", "send the bytes to the upload URL")
    for body in (None, b"", in_pieces(b"")):
        renewed = await resend(client, declared["file"], body, {"Repr-Digest": "nothing"})
        assert renewed.status_code == 200, "an empty body is as none"
    assert (await put(renewed.json(), BODY)).status == 200


async def test_a_body_for_a_ready_or_deleted_file_is_refused(client: httpx.AsyncClient) -> None:
    file = await stream(client, BODY)
    check_problem(await resend(client, file, BODY), 409, "already-uploaded")
    await client.delete(f"/files/{file['id']}")
    check_problem(await resend(client, file, BODY), 410, "gone")


async def test_only_the_owner_with_the_right_to_write_sends_it_again(
    api: Api, client: httpx.AsyncClient, admin: Owner, damaged: dict[str, Any]
) -> None:
    reader = api.new_owner(scopes=("read",))
    for owner, status in ((api.new_owner(), 404), (reader, 403), (admin, 200)):
        async with httpx.AsyncClient(
            base_url=api.url, headers=owner.headers, verify=TRUSTED
        ) as other:
            assert (await resend(other, damaged, BODY)).status_code == status
    assert (await client.get(f"/files/{damaged['id']}")).content == BODY


async def test_an_upload_token_does_not_send_a_damaged_file_again(
    api: Api, client: httpx.AsyncClient, resources: Resources
) -> None:
    declared = await declare(client, BODY)
    token = declared["upload"]["token"]
    keep_secret([token])
    assert (await put(declared, BODY)).status == 200
    done = await client.post(f"/files/{declared['file']['id']}/complete", params={"wait": 30})
    assert done.json()["state"] == "ready"
    await make_damaged(resources.pool, declared["file"]["id"])
    sent_as = {"Authorization": f"Bearer {token}"}
    async with httpx.AsyncClient(base_url=api.url, headers=sent_as, verify=TRUSTED) as browser:
        answer = await resend(browser, declared["file"], BODY)
    check_problem(answer, 403, "forbidden", "use an API key")
    await check_state(client, declared["file"], "damaged")


async def test_the_client_reports_a_damaged_file_at_once_and_sends_it_again(
    api: Api, owner: Owner, client: httpx.AsyncClient, resources: Resources
) -> None:
    """Read a file that is still `ready`, so that the API and not the client finds it damaged."""
    file = await stream(client, BODY)
    await resources.vault.delete(file["minio_object_name"])

    def use_client() -> None:
        with Client(api.url, owner.key, retry_seconds=10) as sender:
            with pytest.raises(Damaged) as refused:
                sender.download(file["id"], io.BytesIO())
            assert refused.value.status == 502
            asyncio.run(make_damaged_apart())
            with pytest.raises(Damaged):
                sender.download(file["id"], io.BytesIO())
            with pytest.raises(DigestMismatch):
                sender.upload_again(file["id"], BODY[:-1])
            assert sender.upload_again(file["id"], BODY).state == "ready"
            with pytest.raises(AlreadyUploaded):
                sender.upload_again(file["id"], BODY)
            target = io.BytesIO()
            sender.download(file["id"], target)
            assert target.getvalue() == BODY

    loop = asyncio.get_running_loop()

    async def make_damaged_apart() -> None:
        done = asyncio.run_coroutine_threadsafe(make_damaged(resources.pool, file["id"]), loop)
        await asyncio.wrap_future(done)

    async with asyncio.timeout(60):
        await asyncio.to_thread(use_client)
