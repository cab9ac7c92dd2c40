"""A server that receives hostile requests, and checks of its responses and of what is stored."""

import asyncio
import contextlib
import json
import secrets
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from typing import Any, Final
from uuid import UUID

import httpx

from service import database
from service.database.grants import Grants
from service.database.notifications import Notifications
from service.database.reserved_keys import ReservedKeys
from service.database.settled_uploads import SettledUploads
from service.marker import Guard
from service.object_store import ObjectStore
from service.resources import Resources, close_pool, make_signer
from service.settings import Settings
from tests.e2e.hostile_http.cases import KEY, NAME, PENDING, READY, Case, Then, fill
from tests.e2e.jobs import digest, until_it_holds
from tests.support.invariants import check_files_are_proved, check_objects_are_named
from tests.support.presigned import content
from tests.support.trust import TRUSTED
from tests.support.wire import Answer, Wire

FILES: Final = """
    SELECT id, filename, state, size, hash, minio_object_name FROM files
    WHERE owner = $1 AND id > $2 ORDER BY id
"""
LATEST_SECONDS: Final = 15
"""The longest time between the creation of a row's id and the commit of the row."""
RESERVATIONS: Final = "SELECT count(*) FROM reservations WHERE owner = $1"
PROVED: Final = b"a proved file"
TYPES: Final = {
    408: "head-timeout",
    411: "length-required",
    431: "head-too-large",
    505: "unsupported-version",
}
"""The problem types of responses that the HTTP server itself gives."""


@dataclass
class Site:
    """A server, the owner whose key hostile requests carry, and access to what they leave."""

    url: str
    owner: str
    key: str = field(repr=False)
    ready: str
    pending: str
    runner: asyncio.Runner = field(repr=False)
    resources: Resources = field(repr=False)
    seen: set[UUID]
    """The ids of the rows that were read. Neither ids nor times are in the order of commits."""

    def values(self, name: str) -> dict[bytes, bytes]:
        """Return the value of each placeholder."""
        return {
            KEY: self.key.encode(),
            NAME: name.encode(),
            READY: self.ready.encode(),
            PENDING: self.pending.encode(),
        }

    def take_new(self) -> list[dict[str, Any]]:
        """Return the owner's newest rows, except those that an earlier call returned."""
        since = UUID(int=int((time.time() - LATEST_SECONDS) * 1000) << 80)  # ids are UUIDv7
        rows = self.runner.run(self.resources.pool.fetch(FILES, self.owner, since))
        new = [dict(row) for row in rows if row["id"] not in self.seen]
        self.seen.update(row["id"] for row in new)
        return new

    def count_reservations(self) -> int:
        return int(self.runner.run(self.resources.pool.fetchval(RESERVATIONS, self.owner)))

    def read_vault(self, name: object) -> bytes | None:
        return content(self.resources.vault, str(name))

    def check_buckets(self) -> None:
        """Check that a row names every object, and that proved objects match their rows."""
        self.runner.run(until_it_holds(lambda: check_objects_are_named(self.resources)))
        self.runner.run(check_files_are_proved(self.resources))


@contextlib.asynccontextmanager
async def open_without_listener(settings: Settings) -> AsyncIterator[Resources]:
    """Open the same resources as `open_resources`, without LISTEN.

    No event loop runs between two queries here, so notifications could not be read.
    """
    pool = await database.open_pool(settings)
    store = ObjectStore(
        settings.s3_endpoint,
        access_key=settings.s3_access_key,
        secret_key=settings.s3_secret_key,
        region=settings.s3_region,
    )
    notifications = Notifications(settings.listen_url)
    vault = store.bucket(settings.vault_bucket)
    try:
        yield Resources(
            settings=settings,
            pool=pool,
            store=store,
            incoming=store.bucket(settings.incoming_bucket),
            vault=vault,
            guard=Guard(pool, vault, settings.listen_url),
            signer=make_signer(settings),
            notifications=notifications,
            settled_uploads=SettledUploads(notifications),
            grants=Grants(pool, notifications),
            reserved_keys=ReservedKeys(pool, notifications),
        )
    finally:
        store.close()
        await close_pool(pool)


@contextlib.contextmanager
def open_site(url: str, settings: Settings, *, owner: str, key: str) -> Iterator[Site]:
    """Create the files that hostile requests name, and check both buckets at exit.

    `settings` are those of the server.
    """
    authorization = {"Authorization": f"Bearer {key}"}
    with httpx.Client(base_url=url, headers=authorization, timeout=30, verify=TRUSTED) as client:
        proved = client.post("/files/upload", params={"filename": "ready"}, content=PROVED)
        declared = client.post("/files", json={"filename": "pending", "size": 1})
        assert (proved.status_code, declared.status_code) == (201, 201)
    ids = (proved.json()["id"], declared.json()["file"]["id"])
    with asyncio.Runner() as runner:
        stack = contextlib.AsyncExitStack()
        resources = runner.run(stack.enter_async_context(open_without_listener(settings)))
        try:
            site = Site(
                url, owner, key, *ids, runner, resources, {UUID(file_id) for file_id in ids}
            )
            yield site
            site.check_buckets()
        finally:
            runner.run(stack.aclose())


# The checks of every case


def run_case(site: Site, case: Case) -> None:
    """Send the case, and check its one response, the connection after it, and what was stored."""
    name = secrets.token_hex(6)
    site.take_new()
    with Wire(site.url) as wire:
        wire.send(*fill(case.segments, site.values(name)))
        answer = wire.read_answer(case.method, version=case.version)
        check_answer(answer, case.statuses, case.problem)
        check_connection(wire, answer, case.then)
    check_left(site, case, answer, name=name)


def check_answer(answer: Answer, statuses: frozenset[int], problem: str = "") -> None:
    """Check that the status is one of these, and that a refusal is a problem document."""
    assert answer.status in statuses, (answer.status, answer.body[:500])
    if answer.status < 400:
        return
    assert answer.find(b"content-type") == b"application/problem+json", answer
    assert answer.find(b"x-request-id"), answer
    document = json.loads(answer.body)
    assert document["status"] == answer.status
    kind = TYPES.get(answer.status, problem if answer.status in (400, 409) else "")
    expected = kind or document["type"].removeprefix("urn:assay:problem:")
    assert document["type"] == f"urn:assay:problem:{expected}", document


def check_connection(wire: Wire, answer: Answer, then: Then) -> None:
    """Check that nothing follows the response.

    The connection stays open or closes as the response announces and as the rule requires.
    """
    if then in (Then.STAYS, Then.CLOSES):
        assert answer.announces_close == (then is Then.CLOSES), answer.fields
    if then is Then.WAITS:
        wire.finish_sending()
    if then is Then.WAITS or answer.announces_close:
        wire.check_closed()
    else:
        wire.check_in_step()


def check_left(site: Site, case: Case, answer: Answer, *, name: str) -> None:
    """Check that a stored file equals the request's body, and that there is no other new row."""
    new = site.take_new()
    assert site.count_reservations() == 0
    if answer.status != 201 or case.stored is None:
        assert new == []
        return
    body = fill([case.stored], site.values(name))[0]
    assert [(row["filename"], row["state"], row["size"]) for row in new] == [
        (name, "ready", len(body))
    ]
    assert new[0]["hash"].hex() == digest(body)
    assert site.read_vault(new[0]["minio_object_name"]) == body
