"""The steps of a client, the store's events, and checks of the rows and objects of files."""

import asyncio
import contextlib
import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import httpx
import msgspec

from service.files.lookup import find_file
from service.model import UnprovedFile
from service.resources import Resources, make_signer
from service.settings import Settings
from service.uploads.signing import sign_upload
from service.worker.loop import Worker
from tests.support.invariants import (
    check_files_are_proved,
    check_history,
    check_objects_are_named,
    list_bucket,
)
from tests.support.presigned import content, forge
from tests.support.stores import Answer, Headers, add_headers, now, send
from tests.support.waiting import until

WAIT_SECONDS = 20
TEXT = "text/plain"

OBJECTS_READ: set[tuple[object, ...]] = set()
"""The objects that `check_all` has read: see `check_files_are_proved`. Their keys are random."""
VAULT_WRITE = b"x-amz-meta-assay-file-id"
"""A header of a request that writes a file to the vault, and not of one for the marker."""


def digest(body: bytes) -> str:
    return hashlib.sha256(body).hexdigest()


async def declare(client: httpx.AsyncClient, body: bytes, **fields: Any) -> dict[str, Any]:
    """Declare a file of the body's size, and return the API's response, `{file, upload}`."""
    answer = await client.post(
        "/files", json={"filename": "a.txt", "size": len(body), "content_type": TEXT} | fields
    )
    assert answer.status_code == 201, answer.text
    declared: dict[str, Any] = answer.json()
    return declared


async def put(declared: Mapping[str, Any], body: bytes, headers: Headers | None = None) -> Answer:
    """Send one PUT to the upload's URL, with its headers and then with those given."""
    upload = declared["upload"]
    return await asyncio.to_thread(
        send,
        upload["method"],
        upload["url"],
        body=body,
        headers=add_headers(upload["headers"], headers),
    )


async def open_upload(resources: Resources, declared: Mapping[str, Any]) -> dict[str, Any]:
    """Return the same upload with a URL that forbids no header.

    Tests use it to write objects that the store would otherwise refuse.
    """
    settings = msgspec.structs.replace(resources.settings, s3_bind_absent_headers=False)
    unbound = msgspec.structs.replace(resources, settings=settings, signer=make_signer(settings))
    file = await find_file(resources, UUID(declared["file"]["id"]), owner=None)
    assert isinstance(file, UnprovedFile)
    signed = sign_upload(unbound, file, now=await resources.pool.fetchval("SELECT now()"))
    return {**declared, "upload": msgspec.to_builtins(signed)}


async def sign_parts(
    client: httpx.AsyncClient, declared: Mapping[str, Any], *numbers: int, **fields: Any
) -> list[dict[str, Any]]:
    """Return a URL for each of these parts. `fields` are sent for every part."""
    wanted = [{"number": number, **fields} for number in numbers]
    answer = await client.post(f"/files/{declared['file']['id']}/parts", json={"parts": wanted})
    assert answer.status_code == 200, answer.text
    parts: list[dict[str, Any]] = answer.json()["parts"]
    return parts


async def put_part(part: Mapping[str, Any], body: bytes, headers: Headers | None = None) -> Answer:
    """Send one PUT of a part. `body` has the bytes of this part only."""
    return await asyncio.to_thread(
        send, part["method"], part["url"], body=body, headers=add_headers(part["headers"], headers)
    )


def cut(declared: Mapping[str, Any], body: bytes) -> dict[int, bytes]:
    """Return the bytes of each part by its number."""
    about = declared["upload"]["multipart"]
    size = about["part_size"]
    return {
        number: body[(number - 1) * size : number * size] for number in range(1, about["parts"] + 1)
    }


async def put_parts(client: httpx.AsyncClient, declared: Mapping[str, Any], body: bytes) -> None:
    """Send every part by a URL that binds its digest."""
    for number, piece in cut(declared, body).items():
        [part] = await sign_parts(client, declared, number, sha256=digest(piece))
        assert (await put_part(part, piece)).status == 200


async def upload(client: httpx.AsyncClient, body: bytes, **fields: Any) -> dict[str, Any]:
    """Declare and send a file without `complete`, so that only the store's event reports it."""
    declared = await declare(client, body, **fields)
    assert (await put(declared, body)).status == 200
    return declared


async def upload_silently(
    client: httpx.AsyncClient, body: bytes, *, unbound: Resources | None = None
) -> tuple[dict[str, Any], int]:
    """Declare a file, and send it with headers that suppress the event and forge time and ETag.

    If `unbound` is given, the upload uses a URL that forbids no header. Return the declared file
    and the store's status. Some stores refuse such headers.
    """
    declared = await declare(client, body)
    by = declared if unbound is None else await open_upload(unbound, declared)
    return declared, (await put(by, body, forge(now()))).status


async def stream(
    client: httpx.AsyncClient, body: bytes, filename: str = "a.txt", *, content_type: str = TEXT
) -> dict[str, Any]:
    """Send the body with `POST /files/upload`, and return the metadata of the proved file."""
    answer = await client.post(
        "/files/upload",
        params={"filename": filename},
        headers={"Content-Type": content_type},
        content=body,
    )
    assert answer.status_code == 201, answer.text
    metadata: dict[str, Any] = answer.json()
    return metadata


async def in_pieces(body: bytes, size: int = 100_000) -> AsyncIterator[bytes]:
    """Yield the body in pieces, so that it is sent without a Content-Length."""
    for start in range(0, len(body), size):
        yield body[start : start + size]


async def prove(client: httpx.AsyncClient, body: bytes, **fields: Any) -> dict[str, Any]:
    """Declare, send and complete a file, and return its metadata when it is final."""
    return await complete(client, await upload(client, body, **fields))


async def complete(
    client: httpx.AsyncClient, declared: Mapping[str, Any], *, wait: int = WAIT_SECONDS
) -> dict[str, Any]:
    """Send `complete`, and return the metadata when the file is final."""
    answer = await client.post(f"/files/{declared['file']['id']}/complete", params={"wait": wait})
    assert answer.status_code == 200, answer.text
    metadata: dict[str, Any] = answer.json()
    return metadata


async def read_metadata(
    client: httpx.AsyncClient, declared: Mapping[str, Any], *, wait: int = 0
) -> dict[str, Any]:
    answer = await client.get(f"/files/{declared['file']['id']}/metadata", params={"wait": wait})
    assert answer.status_code == 200, answer.text
    metadata: dict[str, Any] = answer.json()
    return metadata


async def download(client: httpx.AsyncClient, declared: Mapping[str, Any]) -> httpx.Response:
    return await client.get(f"/files/{declared['file']['id']}")


def check_unavailable(answer: httpx.Response, what: str) -> None:
    assert (answer.status_code, answer.json()["type"]) == (
        503,
        f"urn:assay:problem:{what}-unavailable",
    )
    assert int(answer.headers["retry-after"]) > 0


@dataclass(frozen=True)
class Traces:
    """The row of a file and its bytes in either bucket. None means that there is no object."""

    row: Mapping[str, Any]
    incoming: bytes | None
    vault: bytes | None
    reservations: int


ROW = """
    SELECT state, hash, size, arrivals, attempts, incoming_key, minio_object_name,
        rejection_reason, lease, due_at, last_error
    FROM files WHERE id = $1
"""


async def look_at(resources: Resources, declared: Mapping[str, Any]) -> Traces:
    row = await resources.pool.fetchrow(ROW, declared["file"]["id"])
    reservations = await resources.pool.fetchval(
        "SELECT count(*) FROM reservations WHERE file_id = $1", declared["file"]["id"]
    )
    vault = (
        await asyncio.to_thread(content, resources.vault, str(row["minio_object_name"]))
        if row["minio_object_name"]
        else None
    )
    return Traces(
        dict(row),
        await asyncio.to_thread(content, resources.incoming, row["incoming_key"]),
        vault,
        reservations,
    )


async def find_key(resources: Resources, declared: Mapping[str, Any]) -> str:
    """Return the incoming key of the file. Clients know it only from the file's URLs."""
    key: str = await resources.pool.fetchval(
        "SELECT incoming_key FROM files WHERE id = $1", declared["file"]["id"]
    )
    return key


async def check_served(
    client: httpx.AsyncClient, resources: Resources, declared: Mapping[str, Any], body: bytes
) -> None:
    """Check that the file is `ready` and has these bytes in the API, its row and the vault."""
    metadata = await read_metadata(client, declared)
    assert (metadata["state"], metadata["hash"], metadata["size"]) == (
        "ready",
        digest(body),
        len(body),
    )
    answer = await download(client, declared)
    assert (answer.status_code, answer.content) == (200, body)
    traces = await look_at(resources, declared)
    assert (traces.row["state"], traces.row["hash"].hex(), traces.vault) == (
        "ready",
        digest(body),
        body,
    )


async def check_all(resources: Resources) -> None:
    """Check the invariants over all files of this API, and read each object only once.

    All tests of a process share an API, and the objects of earlier tests were read before.
    """
    await until_it_holds(lambda: check_objects_are_named(resources))
    await check_files_are_proved(resources, OBJECTS_READ)
    await check_history(resources)


async def until_it_holds(check: Callable[[], Awaitable[None]]) -> None:
    """Repeat the check until it passes, or raise its last AssertionError after WAIT_SECONDS.

    A check can fail for a moment because a sweeper runs between the reads of buckets and rows.
    """
    async with asyncio.timeout(WAIT_SECONDS):
        while True:
            try:
                return await check()
            except AssertionError as error:
                found = error
            try:
                await asyncio.sleep(0.5)
            except asyncio.CancelledError:
                raise found from None


async def check_single_object(resources: Resources, declared: Mapping[str, Any]) -> None:
    """Wait until the vault holds only the proved object of this file.

    A worker deletes the objects of earlier claims. The deployment must have no other proved files.
    """
    name = str((await look_at(resources, declared)).row["minio_object_name"])

    async def is_alone() -> bool:
        return await list_bucket(resources.vault) == {name}

    async with working(resources):
        await until(is_alone)
    await check_all(resources)


async def sweep_incoming(resources: Resources, declared: Mapping[str, Any]) -> None:
    """Make the next sweep of the file due, and wait until its incoming key has no object."""
    file_id = declared["file"]["id"]

    async def gone() -> bool:
        if (await look_at(resources, declared)).incoming is None:
            # No further sweep may be due: it might delete what the test writes there next.
            return True
        await resources.pool.execute(
            "UPDATE files SET sweep_at = now()"
            " WHERE id = $1 AND sweep_at > now() + interval '6 minutes'",
            file_id,
        )
        return False

    await until(gone)


@contextlib.asynccontextmanager
async def working(resources: Resources) -> AsyncIterator[None]:
    """Run a worker in the test's event loop."""
    task = asyncio.create_task(Worker(resources).run())
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


def make_event(
    bucket: str, key: str, *, name: str = "s3:ObjectCreated:Put", **lies: Any
) -> dict[str, Any]:
    """Return an event in the store's format.

    `lies` are fields of the object beside its key. The service must not rely on them.
    """
    record = {"eventName": name, "s3": {"bucket": {"name": bucket}, "object": {"key": key, **lies}}}
    return {"EventName": name, "Key": f"{bucket}/{key}", "Records": [record]}


async def announce(
    client: httpx.AsyncClient, settings: Settings, key: str, **about: Any
) -> httpx.Response:
    """Send an event for the key to the webhook, with the store's token."""
    event = make_event(settings.incoming_bucket, key, **about)
    return await client.post(
        "/webhooks/minio",
        json=event,
        headers={"Authorization": f"Bearer {settings.webhook_token[0]}"},
    )


async def read_metric(client: httpx.AsyncClient, name: str, **labels: str) -> float:
    """Return the sum of the metric's samples that have these labels."""
    lines = (await client.get("/metrics")).text.splitlines()
    wanted = [f'{label}="{value}"' for label, value in labels.items()]
    found = [
        line
        for line in lines
        if line.startswith((f"{name}{{", f"{name} ")) and all(label in line for label in wanted)
    ]
    return sum(float(line.rpartition(" ")[2]) for line in found)
