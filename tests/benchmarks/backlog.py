"""A backlog of announced files of 64 KiB, which one worker proves.

The reference does the same by hand, for eight files at once: a GET, a digest, a PUT, and the
statement that commits.
"""

import asyncio
import hashlib
import time
from collections.abc import Sequence
from datetime import datetime
from uuid import UUID, uuid4

import asyncpg
import uvloop

from service.database.pool import set_codecs
from tests.benchmarks.costs import Costs
from tests.benchmarks.figures import Figure, Series, compare_rates
from tests.benchmarks.ground import Ground, Site
from tests.benchmarks.load import CLIENTS, Connection, check, connect, run_jobs
from tests.benchmarks.small import (
    BODY,
    COMMIT_BY_HAND,
    DIGEST,
    declare_and_put,
    insert_row,
    let_settle,
)

HANDS = 8
LEAST_RATIO = 0.6
MOST_WORKER_MS = 1.5
WARMING_FILES = 40
"""The files at the beginning that do not count, because the worker has just started."""
ANNOUNCED = "SELECT count(*) FROM files WHERE owner <> 'by-hand' AND state = 'verifying'"
READY = """
    SELECT upload_date FROM files WHERE owner <> 'by-hand' AND upload_date > $1
    ORDER BY upload_date
"""


def measure(ground: Ground) -> list[Figure]:
    count, rounds = ground.choose(1000, 120), ground.choose(5, 1)
    assay, by_hand, worker_ms = [], [], []
    with ground.new_site() as site:
        site.start_api("--no-worker")
        for number in range(rounds + 1):
            uvloop.run(make_backlog(site, count))
            rate, milliseconds = prove_backlog(site, count)
            its = uvloop.run(prove_by_hand(site, count))
            if number:  # the first round warms up
                assay.append(rate)
                by_hand.append(its)
                worker_ms.append(milliseconds)
    cost = Series(tuple(worker_ms))
    work = "a backlog of announced 64 KiB files, one worker"
    return [
        compare_rates(
            work,
            f"GET, digest, PUT and commit by hand, {HANDS} at once",
            Series(tuple(assay)),
            Series(tuple(by_hand)),
            unit="files/s",
            least=LEAST_RATIO,
        ),
        Figure(
            work,
            "CPU time of the worker per file",
            f"{cost.show()} ms",
            "",
            "",
            f"≤ {MOST_WORKER_MS} ms",
            cost.median <= MOST_WORKER_MS,
        ),
    ]


async def make_backlog(site: Site, count: int) -> None:
    """Upload files, and wait until all of them are announced by the store's events."""

    async def upload(connections: Sequence[Connection]) -> None:
        api, store = connections
        await declare_and_put(site, api, store)

    await run_jobs([upload] * count, [site.url, site.settings.s3_endpoint], clients=CLIENTS)
    connection = await asyncpg.connect(site.settings.database_url)
    while await connection.fetchval(ANNOUNCED) < count:  # noqa: ASYNC110  # no event announces it
        await asyncio.sleep(0.05)
    await connection.close()


def prove_backlog(site: Site, count: int) -> tuple[float, float]:
    """Start a worker, and return its files per second and its milliseconds of CPU per file."""
    begun = uvloop.run(read_clock(site))
    worker, stop = site.start_worker_alone()
    costs = Costs({"worker": worker})
    before = costs.read()["worker"]
    dates = uvloop.run(wait_until_ready(site, begun, count))
    spent = costs.read()["worker"] - before
    stop()
    counted = dates[WARMING_FILES:]
    rate = (len(counted) - 1) / (counted[-1] - counted[0]).total_seconds()
    return rate, spent / count * 1000


async def read_clock(site: Site) -> datetime:
    connection = await asyncpg.connect(site.settings.database_url)
    now: datetime = await connection.fetchval("SELECT now()")
    await connection.close()
    return now


async def wait_until_ready(site: Site, begun: datetime, count: int) -> list[datetime]:
    connection = await asyncpg.connect(site.settings.database_url)
    rows: list[asyncpg.Record] = []
    while len(rows) < count:
        rows = await connection.fetch(READY, begun)
        await asyncio.sleep(0.1)
    await let_settle(connection)
    await connection.close()
    return [row["upload_date"] for row in rows]


async def prove_by_hand(site: Site, count: int) -> float:
    """Return the files per second. The objects and the rows exist before the clock starts."""
    store = [await connect(site.settings.s3_endpoint) for _ in range(HANDS)]
    pool = [await asyncpg.connect(site.settings.database_url) for _ in range(HANDS)]
    for connection in pool:
        await set_codecs(connection)
    waiting = []
    for _ in range(count):
        key, file_id = uuid4().hex, uuid4()
        await insert_row(pool[0], file_id, key)
        check(await store[0].exchange(site.hand.put(key, BODY)), 200)
        name = uuid4()
        waiting.append((file_id, name, site.hand.get(key), site.hand.put(str(name), BODY)))
    work = iter(waiting)

    async def prove_some(by: Connection, connection: asyncpg.Connection) -> None:
        for file_id, name, get, put in work:
            await prove_one(by, connection, file_id, name, get, put)

    begun = time.perf_counter()
    await asyncio.gather(*map(prove_some, store, pool))
    seconds = time.perf_counter() - begun
    for connection in pool:
        await connection.close()
    for one in store:
        one.transport.close()
    return count / seconds


async def prove_one(
    store: Connection,
    connection: asyncpg.Connection,
    file_id: UUID,
    name: UUID,
    get: bytes,
    put: bytes,
) -> None:
    digest = hashlib.sha256(check(await store.exchange(get), 200).body).digest()
    assert digest == DIGEST.digest()
    check(await store.exchange(put), 200)
    await connection.execute(COMMIT_BY_HAND, file_id, digest, name)
