"""Files of 64 KiB: the time from the PUT to `ready`, and the number of files per second."""

import asyncio
import hashlib
import os
import secrets
import time
from collections.abc import Sequence
from datetime import timedelta
from uuid import UUID, uuid4

import asyncpg
import msgspec
import uvloop

from service.database.pool import set_codecs
from service.model import Declaration
from service.queries.files import declare_file
from tests.benchmarks.figures import Figure, Series, alternate, compare_rates, find_percentile
from tests.benchmarks.ground import Ground, Site
from tests.benchmarks.load import (
    CLIENTS,
    Connection,
    Job,
    check,
    connect,
    drive,
    make_request,
    send,
)

BODY = os.urandom(64 * 1024)
DIGEST = hashlib.sha256(BODY)
MOST_TIMES_BY_HAND = {50: 1.3, 99: 2.0}
LEAST_OF_REQUESTS = 0.7
MOST_CPU_MS = 10
LATEST_EVENT_SECONDS = 3.5
"""The longest delay of an event in the store's queue. No signal shows that the queue is empty."""


# Latency


def measure_latency(ground: Ground) -> list[Figure]:
    rounds, batch = ground.choose(12, 2), ground.choose(25, 10)
    figures = []
    for deployed, together in (
        ("worker in the API's process", True),
        ("API and worker apart", False),
    ):
        with ground.new_site() as site:
            start(site, together=together)
            assay, by_hand = uvloop.run(take_turns(site, rounds=rounds, batch=batch))
        for percent in (50, 99):
            figures.append(
                compare_latencies(
                    f"PUT answered → `ready`, 64 KiB, `complete?wait=`, {deployed}",
                    assay,
                    by_hand,
                    percent=percent,
                )
            )
    return figures


def start(site: Site, *, together: bool) -> dict[str, int]:
    """Start the processes of the service, and return their process ids."""
    if together:
        return {"API": site.start_api()}
    return {"API": site.start_api("--no-worker"), "worker": site.start_worker()}


def compare_latencies(
    work: str, assay: list[list[float]], by_hand: list[list[float]], *, percent: int
) -> Figure:
    """Compare percentiles over all rounds. Only the median has a spread, that of single rounds."""
    mine, its = (
        find_percentile([one for turn in turns for one in turn], percent)
        for turns in (assay, by_hand)
    )
    turns = Series(
        tuple(
            find_percentile(a, 50) / find_percentile(b, 50)
            for a, b in zip(assay, by_hand, strict=True)
        )
    )
    ratio = f"{mine / its:.2f}" + (
        f" ({min(turns.values):.2f} to {max(turns.values):.2f})" if percent == 50 else ""
    )
    against = "the same copy + GET + hash + commit by hand in a loop"
    return Figure(
        f"{work}, p{percent}",
        against,
        f"{mine * 1000:.1f} ms",
        f"{its * 1000:.1f} ms",
        ratio,
        f"≤ {MOST_TIMES_BY_HAND[percent]}",
        mine / its <= MOST_TIMES_BY_HAND[percent],
    )


async def take_turns(
    site: Site, *, rounds: int, batch: int
) -> tuple[list[list[float]], list[list[float]]]:
    """Return the seconds of both sides, in a list per round. A first round does not count."""
    api, store = await connect(site.url), await connect(site.settings.s3_endpoint)
    connection = await asyncpg.connect(site.settings.database_url)
    await set_codecs(connection)
    assay, by_hand = [], []
    for number in range(rounds + 1):
        if number % 2:
            assay.append([await upload_and_wait(site, api, store) for _ in range(batch)])
            await let_settle(connection)
        by_hand.append([await prove_by_hand(site, store, connection) for _ in range(batch)])
        if not number % 2:
            assay.append([await upload_and_wait(site, api, store) for _ in range(batch)])
            await let_settle(connection)
    await connection.close()
    return assay[1:], by_hand[1:]


UNSETTLED = """
    SELECT (
        SELECT count(*) FROM files
        WHERE sweep_at <= now() OR state IN ('pending', 'verifying') AND owner <> 'by-hand'
    ) + (
        SELECT count(*) FROM files
        WHERE state = 'ready' AND owner <> 'by-hand' AND sweeps = 0 AND incoming_key IS NOT NULL
    )
"""


async def let_settle(connection: asyncpg.Connection) -> None:
    """Wait for the work that Assay does later: the sweep, and the store's delayed events.

    It would otherwise slow down the reference.
    """
    while await connection.fetchval(UNSETTLED):  # noqa: ASYNC110  # no event announces it
        await asyncio.sleep(0.05)
    await asyncio.sleep(LATEST_EVENT_SECONDS)


def let_site_settle(site: Site) -> None:
    async def settle() -> None:
        connection = await asyncpg.connect(site.settings.database_url)
        await let_settle(connection)
        await connection.close()

    asyncio.run(settle())


async def upload_and_wait(site: Site, api: Connection, store: Connection) -> float:
    file_id = await declare_and_put(site, api, store)
    begun = time.perf_counter()
    await complete(site, api, file_id)
    return time.perf_counter() - begun


async def declare_and_put(site: Site, api: Connection, store: Connection) -> str:
    declared = check(await api.exchange(make_declare(site)), 201).json()
    upload = declared["upload"]
    check(
        await store.exchange(
            make_request("PUT", upload["url"], headers=upload["headers"], body=BODY)
        ),
        200,
    )
    return str(declared["file"]["id"])


async def complete(site: Site, api: Connection, file_id: str) -> None:
    request = make_request(
        "POST", f"{site.url}/files/{file_id}/complete?wait=50", headers=site.headers
    )
    file = check(await api.exchange(request), 200).json()
    assert file["hash"] == DIGEST.hexdigest(), file


def make_declare(site: Site) -> bytes:
    body = {"filename": "small.bin", "size": len(BODY), "content_type": "application/octet-stream"}
    headers = site.headers | {"Content-Type": "application/json"}
    return make_request(
        "POST", f"{site.url}/files", headers=headers, body=msgspec.json.encode(body)
    )


COMMIT_BY_HAND = """
    UPDATE files SET state = 'ready', changed_by = 'worker', hash = $2, minio_object_name = $3,
        vault_etag = 'etag', upload_date = now(), due_at = NULL, final_at = now()
    WHERE id = $1
"""


async def prove_by_hand(site: Site, store: Connection, connection: asyncpg.Connection) -> float:
    key, file_id, name = secrets.token_hex(16), uuid4(), uuid4()
    await insert_row(connection, file_id, key)
    check(await store.exchange(site.hand.put(key, BODY)), 200)
    begun = time.perf_counter()
    check(await store.exchange(site.hand.copy(key, str(name))), 200)
    digest = hashlib.sha256(check(await store.exchange(site.hand.get(str(name))), 200).body)
    await connection.execute(COMMIT_BY_HAND, file_id, digest.digest(), name)
    seconds = time.perf_counter() - begun
    assert digest.digest() == DIGEST.digest()
    return seconds


BY_HAND = Declaration(
    owner="by-hand",
    filename="small.bin",
    size=len(BODY),
    content_type="application/octet-stream",
    sha256=None,
    metadata={},
)


async def insert_row(connection: asyncpg.Connection, file_id: UUID, key: str) -> None:
    ends = {"upload_ttl": timedelta(hours=24), "grace": timedelta(minutes=15)}
    await declare_file(
        connection, BY_HAND, file_id=file_id, incoming_key=key, part_size=None, **ends
    )


# Throughput


def measure_throughput(ground: Ground) -> list[Figure]:
    count, rounds = ground.choose(480, 64), ground.choose(7, 2)
    with ground.new_site() as site:
        costs = site.measure_costs(**start(site, together=False))
        api, store = site.url, site.settings.s3_endpoint

        def send_whole() -> float:
            rate = drive([make_whole_way(site)] * count, [api, store])
            let_site_settle(site)
            return rate

        found = alternate(
            {
                "assay": costs.measure("assay", send_whole, jobs=count),
                "direct": lambda: drive(
                    [
                        send(site.hand.put(secrets.token_hex(16), BODY), expected=200)
                        for _ in range(count)
                    ],
                    [store],
                ),
                "requests": costs.measure(
                    "requests",
                    lambda: drive([make_store_requests(site) for _ in range(count)], [store]),
                    jobs=count,
                ),
            },
            rounds=rounds,
        )
    work = f"64 KiB files from declare to `ready`, {CLIENTS} clients, one worker"
    spent = costs.sum_medians("assay")
    return [
        compare_rates(
            work,
            "direct presigned PUTs alone",
            found["assay"],
            found["direct"],
            unit="files/s",
            least=None,
        ),
        compare_rates(
            work,
            "the store's requests alone, by hand: PUT, GET, PUT, DELETE",
            found["assay"],
            found["requests"],
            unit="files/s",
            least=LEAST_OF_REQUESTS,
            costs=(costs.show("assay"), costs.show("requests")),
        ),
        Figure(
            work,
            "CPU time of all servers per file",
            f"{spent * 1000:.1f} ms",
            "",
            "",
            f"≤ {MOST_CPU_MS} ms",
            spent * 1000 <= MOST_CPU_MS,
        ),
        compare_rates(
            "the store's requests alone",
            "direct presigned PUTs alone",
            found["requests"],
            found["direct"],
            unit="files/s",
            least=None,
        ),
    ]


def make_whole_way(site: Site) -> Job:
    async def upload(connections: Sequence[Connection]) -> None:
        api, store = connections
        await complete(site, api, await declare_and_put(site, api, store))

    return upload


def make_store_requests(site: Site) -> Job:
    """Return a job with the store's requests for one file, signed before the clock starts."""
    hand, key, copied = site.hand, secrets.token_hex(16), str(uuid4())
    requests = (hand.put(key, BODY), hand.get(key), hand.put(copied, BODY))
    last = hand.delete(key)

    async def exchange_all(connections: Sequence[Connection]) -> None:
        for request in requests:
            check(await connections[0].exchange(request), 200)
        check(await connections[0].exchange(last), 204)

    return exchange_all
