"""The verification of healthy small files beside poisoned ones.

The reference is the same files alone. Three kinds of files are poisoned: objects with 130 header
fields of their own, objects whose ETag no condition can name, and objects whose bytes on the
store's disk are damaged. They are sent and tried before the clock starts. When it starts, each of
them that is not final is due again.
"""

import asyncio
import secrets
import time
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import asyncpg
import httpx

from service.object_store.presign import Signer
from service.resources import make_signer
from tests.benchmarks.figures import Figure, alternate
from tests.benchmarks.ground import Ground, Site
from tests.e2e.jobs import declare, put
from tests.support.damage import damage_on_disk

HEALTHY = 50
MANY_FIELDS, FORGED, DAMAGED = 7, 7, 6
BODY = secrets.token_bytes(64 * 1024)
MOST_TIMES = 1.2
SECONDS = 120
RETRY = """
    UPDATE files SET due_at = now()
    WHERE id = ANY ($1::uuid[]) AND state IN ('pending', 'verifying')
"""
UNTRIED = """
    SELECT count(*) FROM files
    WHERE id = ANY ($1::uuid[]) AND state IN ('pending', 'verifying') AND last_error IS NULL
"""


def measure(ground: Ground) -> list[Figure]:
    with ground.new_site() as site:
        site.start_api()
        return [compare(site, rounds=ground.choose(24, 1))]


def compare(site: Site, *, rounds: int) -> Figure:
    poisoned = asyncio.run(poison(site))
    sides = {
        "beside": lambda: asyncio.run(verify_healthy(site, poisoned)),
        "alone": lambda: asyncio.run(verify_healthy(site, [])),
    }
    found = alternate(sides, rounds=rounds)
    ratio = found["beside"].over(found["alone"])
    return Figure(
        f"{HEALTHY} files of 64 KiB beside {len(poisoned)} poisoned ones, `complete` → all `ready`",
        "the same files without poisoned ones",
        f"{found['beside'].show()} s",
        f"{found['alone'].show()} s",
        ratio.show(),
        f"≤ {MOST_TIMES}",
        ratio.median <= MOST_TIMES,
    )


async def poison(site: Site) -> list[str]:
    """Send the poisoned files, wait until a worker has tried each, and return their ids."""
    async with make_client(site) as client:
        declared = [await declare(client, BODY) for _ in range(MANY_FIELDS + FORGED + DAMAGED)]
        connection = await asyncpg.connect(site.settings.database_url)
        keys = [await find_key(connection, one) for one in declared]
        for one in declared[:MANY_FIELDS]:
            fields = {f"x-amz-meta-a{number}": "" for number in range(130)}
            assert (await put(one, BODY, fields)).status == 200
        for key in keys[MANY_FIELDS : MANY_FIELDS + FORGED]:
            await put_forged(make_signer(site.settings), site.settings.incoming_bucket, key)
        for one, key in zip(declared[-DAMAGED:], keys[-DAMAGED:], strict=True):
            body = secrets.token_bytes(len(BODY))
            assert (await put(one, body)).status == 200
            assert damage_on_disk(site.ground.folder, key, body)
        ids = [one["file"]["id"] for one in declared]
        await asyncio.gather(*(complete(client, file_id) for file_id in ids))
        async with asyncio.timeout(SECONDS):
            while await connection.fetchval(  # noqa: ASYNC110  # no event announces it
                UNTRIED, [UUID(file_id) for file_id in ids]
            ):
                await asyncio.sleep(0.1)
        await connection.close()
    return ids


async def verify_healthy(site: Site, poisoned: list[str]) -> float:
    """Return the seconds from the first `complete` until every healthy file is `ready`."""
    async with make_client(site) as client:
        declared = [await declare(client, BODY) for _ in range(HEALTHY)]
        for one in declared:
            assert (await put(one, BODY)).status == 200
        connection = await asyncpg.connect(site.settings.database_url)
        await connection.execute(RETRY, [UUID(file_id) for file_id in poisoned])
        await connection.close()
        begun = time.perf_counter()
        await asyncio.gather(*(prove(client, one["file"]["id"]) for one in declared))
        return time.perf_counter() - begun


def make_client(site: Site) -> httpx.AsyncClient:
    return httpx.AsyncClient(base_url=site.url, headers=site.headers, timeout=SECONDS)


async def put_forged(signer: Signer, bucket: str, key: str) -> None:
    """Send the object by a URL that binds nothing, such as an old deployment may have signed."""
    url = signer.presign("PUT", bucket, key=key, issued_at=datetime.now(UTC), expires_in_seconds=60)
    forged = {
        "x-minio-source-replication-request": "true",
        "x-minio-source-mtime": f"{datetime.now(UTC):%FT%TZ}",
        "x-minio-source-etag": "a\tb",
    }
    async with httpx.AsyncClient() as anonymous:
        answer = await anonymous.put(url, content=BODY, headers=forged)
    assert answer.status_code == 200, answer.text


async def find_key(connection: asyncpg.Connection, declared: Any) -> str:
    key: str = await connection.fetchval(
        "SELECT incoming_key FROM files WHERE id = $1", UUID(declared["file"]["id"])
    )
    return key


async def complete(client: httpx.AsyncClient, file_id: str) -> None:
    answer = await client.post(f"/files/{file_id}/complete")
    assert answer.status_code in (200, 202), answer.text


async def prove(client: httpx.AsyncClient, file_id: str) -> None:
    answer = await client.post(f"/files/{file_id}/complete?wait=50")
    assert answer.status_code == 200, answer.text
    assert answer.json()["state"] == "ready", answer.text
