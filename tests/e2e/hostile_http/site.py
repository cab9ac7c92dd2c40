"""A server that gets hostile requests, what they may leave behind, and what must hold of each answer."""

import asyncio
import contextlib
import json
import secrets
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

import httpx
from service.resources import Resources, open_resources
from service.settings import Settings
from tests.e2e.hostile_http.cases import KEY, NAME, PENDING, READY, Case, Then, fill
from tests.e2e.jobs import digest
from tests.invariants import list_bucket
from tests.presigned import content
from tests.wire import Answer, Wire

FILES = "SELECT id, filename, state, size, hash, minio_object_name FROM files WHERE owner = $1"
COPIES = "SELECT vault_key FROM copies WHERE owner = $1"
OTHERS = """
    SELECT minio_object_name::text FROM files WHERE owner <> $1 AND minio_object_name IS NOT NULL
    UNION ALL SELECT vault_key::text FROM copies WHERE owner <> $1
"""
PROVED = b"a proved file"


@dataclass(frozen=True)
class Left:
    """What the requests of one owner have left: rows by id, reservations, and vault objects that no other owner has."""

    files: dict[UUID, dict[str, Any]]
    copies: list[str]
    objects: set[str]


@dataclass
class Site:
    """A server, the owner whose key hostile requests carry, and ways to look at what they leave."""

    url: str
    owner: str
    key: str = field(repr=False)
    ready: str
    pending: str
    runner: asyncio.Runner = field(repr=False)
    resources: Resources = field(repr=False)

    def values(self, name: str) -> dict[bytes, bytes]:
        """What takes the place of the placeholders."""
        return {
            KEY: self.key.encode(),
            NAME: name.encode(),
            READY: self.ready.encode(),
            PENDING: self.pending.encode(),
        }

    def look(self) -> Left:
        return self.runner.run(self.find_left())

    async def find_left(self) -> Left:
        """The rows are read after the bucket, because every key is written down before anything lies under it."""
        objects = await list_bucket(self.resources.vault)
        others = {row[0] for row in await self.resources.pool.fetch(OTHERS, self.owner)}
        files = [dict(row) for row in await self.resources.pool.fetch(FILES, self.owner)]
        copies = [str(row["vault_key"]) for row in await self.resources.pool.fetch(COPIES, self.owner)]
        return Left({row["id"]: row for row in files}, copies, objects - others)

    def read_vault(self, name: object) -> bytes | None:
        return content(self.resources.vault, str(name))


@contextlib.contextmanager
def open_site(url: str, settings: Settings, *, owner: str, key: str) -> Iterator[Site]:
    """Declare and store the files that hostile requests name. `settings` are the server's."""
    with httpx.Client(base_url=url, headers={"Authorization": f"Bearer {key}"}, timeout=30) as client:
        proved = client.post("/files/upload", params={"filename": "ready"}, content=PROVED)
        declared = client.post("/files", json={"filename": "pending", "size": 1})
        assert (proved.status_code, declared.status_code) == (201, 201)
    with asyncio.Runner() as runner:
        stack = contextlib.AsyncExitStack()
        resources = runner.run(stack.enter_async_context(open_resources(settings)))
        try:
            yield Site(url, owner, key, proved.json()["id"], declared.json()["file"]["id"], runner, resources)
        finally:
            runner.run(stack.aclose())


# What must hold of every case


def run_case(site: Site, case: Case, url: str) -> None:
    """Send the case, and check its one answer, the connection behind it, and all that it has left."""
    name = secrets.token_hex(6)
    before = site.look()
    with Wire(url) as wire:
        wire.send(*fill(case.segments, site.values(name)))
        answer = wire.read_answer(case.method, version=case.version)
        check_answer(answer, case.statuses, case.problem)
        check_connection(wire, answer, case.then)
    check_left(site, case, answer, before=before, name=name)


def check_answer(answer: Answer, statuses: frozenset[int], problem: str = "") -> None:
    """The status is one of these, and every refusal is a problem document (RFC 9457)."""
    assert answer.status in statuses, (answer.status, answer.body[:500])
    if answer.status < 400:
        return
    assert answer.find(b"content-type") == b"application/problem+json", answer
    document = json.loads(answer.body)
    assert document["status"] == answer.status
    assert document["type"].startswith("urn:assay:problem:"), document
    assert not problem or document["type"] == f"urn:assay:problem:{problem}", document


def check_connection(wire: Wire, answer: Answer, then: Then) -> None:
    """Nothing comes behind the answer; the connection stays or closes as the answer says, and as the rule asks."""
    assert then is Then.EITHER or answer.announces_close == (then is Then.CLOSES), answer.fields
    if answer.announces_close:
        wire.check_closed()
    else:
        wire.check_in_step()


def check_left(site: Site, case: Case, answer: Answer, *, before: Left, name: str) -> None:
    """A stored file is exactly the body of the request; nothing else has come into the database or the vault."""
    after = site.look()
    assert after.copies == before.copies
    new = [row for file_id, row in after.files.items() if file_id not in before.files]
    if answer.status != 201 or case.stored is None:
        assert (new, after.objects - before.objects) == ([], set())
        return
    body = fill([case.stored], site.values(name))[0]
    assert [row["filename"] for row in new] == [name]
    [row] = new
    assert (row["state"], row["size"], row["hash"].hex()) == ("ready", len(body), digest(body))
    assert site.read_vault(row["minio_object_name"]) == body
    assert after.objects - before.objects == {str(row["minio_object_name"])}
