"""The steps of a client, and a look at all that a file has left: its row and both buckets."""

import asyncio
import contextlib
import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

import httpx

from service.object_store import Bucket, ObjectMissing
from service.resources import Resources
from service.settings import Settings
from service.worker import Worker
from tests.e2e.conftest import SECRETS_IN_USE, new_key, run_apart, serving
from tests.invariants import check_invariants, read_object
from tests.servers import free_port
from tests.stores import Answer, send

WAIT_SECONDS = 20
TEXT = "text/plain"


def digest(body: bytes) -> str:
    return hashlib.sha256(body).hexdigest()


async def declare(client: httpx.AsyncClient, body: bytes, **fields: Any) -> dict[str, Any]:
    """A file of as many bytes, as the API answers: `{file, upload}`."""
    answer = await client.post("/files", json={"filename": "a.txt", "size": len(body), "content_type": TEXT} | fields)
    assert answer.status_code == 201, answer.text
    declared: dict[str, Any] = answer.json()
    return declared


async def put(declared: Mapping[str, Any], body: bytes, headers: Mapping[str, str] | None = None) -> Answer:
    """One PUT to the URL with the headers that it asks for, and then with others."""
    upload = declared["upload"]
    return await asyncio.to_thread(send, upload["method"], upload["url"], body=body, headers={**upload["headers"], **(headers or {})})


async def upload(client: httpx.AsyncClient, body: bytes, **fields: Any) -> dict[str, Any]:
    """Declared and sent; nobody is told but by the store's event."""
    declared = await declare(client, body, **fields)
    assert (await put(declared, body)).status == 200
    return declared


async def complete(client: httpx.AsyncClient, declared: Mapping[str, Any], *, wait: int = WAIT_SECONDS) -> dict[str, Any]:
    """The metadata when the file is final."""
    answer = await client.post(f"/files/{declared['file']['id']}/complete", params={"wait": wait})
    assert answer.status_code == 200, answer.text
    metadata: dict[str, Any] = answer.json()
    return metadata


async def read_metadata(client: httpx.AsyncClient, declared: Mapping[str, Any], *, wait: int = 0) -> dict[str, Any]:
    answer = await client.get(f"/files/{declared['file']['id']}/metadata", params={"wait": wait})
    assert answer.status_code == 200, answer.text
    metadata: dict[str, Any] = answer.json()
    return metadata


async def download(client: httpx.AsyncClient, declared: Mapping[str, Any]) -> httpx.Response:
    return await client.get(f"/files/{declared['file']['id']}")


@dataclass(frozen=True)
class Traces:
    """What there is of a file: its row, and the bytes in either bucket (None: no object)."""

    row: Mapping[str, Any]
    incoming: bytes | None
    vault: bytes | None
    copies: int


ROW = """
    SELECT state, hash, size, notices, attempts, incoming_key, minio_object_name, rejection_reason, lease, due_at, last_error
    FROM files WHERE id = $1
"""


async def look_at(resources: Resources, declared: Mapping[str, Any]) -> Traces:
    row = await resources.pool.fetchrow(ROW, declared["file"]["id"])
    copies = await resources.pool.fetchval("SELECT count(*) FROM copies WHERE file_id = $1", declared["file"]["id"])
    vault = await asyncio.to_thread(content, resources.vault, str(row["minio_object_name"])) if row["minio_object_name"] else None
    return Traces(dict(row), await asyncio.to_thread(content, resources.incoming, row["incoming_key"]), vault, copies)


def content(bucket: Bucket, key: str) -> bytes | None:
    try:
        return read_object(bucket, key)
    except ObjectMissing:
        return None


async def find_key(resources: Resources, declared: Mapping[str, Any]) -> str:
    """What only the holders of the file's URLs know."""
    key: str = await resources.pool.fetchval("SELECT incoming_key FROM files WHERE id = $1", declared["file"]["id"])
    return key


async def until(holds: Callable[[], Awaitable[bool]], *, seconds: float = WAIT_SECONDS) -> None:
    """Look until it is so. Raises TimeoutError."""
    async with asyncio.timeout(seconds):
        while not await holds():  # noqa: ASYNC110  # what is waited for happens in other threads and processes
            await asyncio.sleep(0.05)


async def check_served(client: httpx.AsyncClient, resources: Resources, declared: Mapping[str, Any], body: bytes) -> None:
    """The file is `ready` and is these bytes: in what the API says and sends, in its row, in the vault."""
    metadata = await read_metadata(client, declared)
    assert (metadata["state"], metadata["hash"], metadata["size"]) == ("ready", digest(body), len(body))
    answer = await download(client, declared)
    assert (answer.status_code, answer.content) == (200, body)
    traces = await look_at(resources, declared)
    assert (traces.row["state"], traces.row["hash"].hex(), traces.vault) == ("ready", digest(body), body)


async def check_all(resources: Resources) -> None:
    """The invariants, over all files of this API. Looked at again when a sweeper was at work between the look at bucket and rows."""
    async with asyncio.timeout(WAIT_SECONDS):
        while True:
            try:
                return await check_invariants(resources)
            except AssertionError as error:
                found = error
            try:
                await asyncio.sleep(0.5)
            except asyncio.CancelledError:
                raise found from None


async def sweep_incoming(resources: Resources, declared: Mapping[str, Any]) -> None:
    """Until nothing lies at the incoming key, as if its next sweep were due now."""
    file_id = declared["file"]["id"]

    async def gone() -> bool:
        await resources.pool.execute("UPDATE files SET sweep_at = now() WHERE id = $1 AND sweep_at > now() + interval '6 minutes'", file_id)
        return (await look_at(resources, declared)).incoming is None

    await until(gone)


@contextlib.asynccontextmanager
async def working(resources: Resources) -> AsyncIterator[None]:
    """A worker of the test's own."""
    task = asyncio.create_task(Worker(resources).run())
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


@contextlib.asynccontextmanager
async def api_apart(settings: Settings, *, with_worker: bool) -> AsyncIterator[httpx.AsyncClient]:
    """A server of the test's own, over settings of its own; whoever asks has a key. No store tells it of events."""
    port, key = free_port(), run_apart(new_key(settings, "apart", scopes=("read", "write"), expires_in=None))
    SECRETS_IN_USE.update([key, *settings.secrets()])
    headers = {"Authorization": f"Bearer {key}"}
    with serving(settings, port, with_worker=with_worker):
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", headers=headers, timeout=40) as client:
            yield client


async def announce(client: httpx.AsyncClient, settings: Settings, key: str, **lies: Any) -> httpx.Response:
    """An event as the store sends it; `lies` stand beside the key, and nobody may believe them."""
    name = "s3:ObjectCreated:Put"
    record = {"eventName": name, "s3": {"bucket": {"name": settings.incoming_bucket}, "object": {"key": key, **lies}}}
    event = {"EventName": name, "Key": f"{settings.incoming_bucket}/{key}", "Records": [record]}
    return await client.post("/webhooks/minio", json=event, headers={"Authorization": f"Bearer {settings.webhook_token[0]}"})
