"""Tests of workers that are killed with SIGKILL, whose files other workers must finish."""

import asyncio
import contextlib
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
import msgspec
import pytest

from service.resources import Resources
from service.settings import Settings
from tests.e2e.commands import started
from tests.e2e.conftest import Ways, api_apart
from tests.e2e.jobs import (
    VAULT_WRITE,
    announce,
    check_all,
    check_served,
    check_single_object,
    find_key,
    look_at,
    read_metadata,
    upload,
    working,
)
from tests.support.waiting import until

pytestmark = [pytest.mark.anyio, pytest.mark.one_store]

BODY = b"what was sent" * 1000
LARGE = BODY * 100  # the store copies it


def as_environment(settings: Settings) -> dict[str, str]:
    """Return the environment variables that give a process these settings."""
    environ = {}
    for name, value in msgspec.structs.asdict(settings).items():
        if value is None or value == ():
            continue
        if isinstance(value, timedelta):
            text = f"{value.total_seconds():.3f}s"
        elif isinstance(value, bool):
            text = "yes" if value else "no"
        else:
            text = ",".join(value) if isinstance(value, tuple) else str(value)
        environ[f"ASSAY_{name.upper()}"] = text
    return environ


@pytest.mark.parametrize(
    ("moment", "body"),
    [
        (b"HEAD /", LARGE),
        (b"x-amz-copy-source", LARGE),
        (b"If-Match", LARGE),
        (b"GET /%(incoming)s/", BODY),
        (VAULT_WRITE, BODY),
    ],
    ids=["looks", "copies", "hashes", "reads", "writes"],
)
async def test_another_worker_finishes_the_file_of_a_killed_worker(
    ways: Ways, direct: Resources, tmp_path: Path, moment: bytes, body: bytes
) -> None:
    ways.store.silence_after(
        moment.replace(b"%(incoming)s", ways.settings.incoming_bucket.encode())
    )
    async with api_apart(ways.direct, with_worker=False) as client:
        declared = await upload(client, body)
        await report(client, ways.settings, direct, declared)
        with started(
            ["worker"], tmp_path / "worker.log", environ=as_environment(ways.settings)
        ) as worker:
            assert await asyncio.to_thread(ways.store.silenced.wait, 60), (
                tmp_path / "worker.log"
            ).read_text()
            worker.kill()
        begun = await look_at(direct, declared)
        assert (begun.row["state"], begun.reservations) == ("verifying", 1)
        assert begun.row["lease"]
        async with working(direct):
            assert (await read_metadata(client, declared, wait=20))["state"] == "ready"
        await check_served(client, direct, declared, body)
        await check_single_object(direct, declared)


async def report(
    client: httpx.AsyncClient,
    settings: Settings,
    direct: Resources,
    declared: Mapping[str, Any],
) -> None:
    """Report the upload by an event, because `complete` would prove a small file itself."""
    key = await find_key(direct, declared)
    assert (await announce(client, settings, key)).status_code == 204


async def test_many_files_are_proved_while_a_worker_dies(
    ways: Ways, direct: Resources, tmp_path: Path
) -> None:
    """Kill a worker that holds leases and waits for the store, while another proves the rest."""
    ways.store.silence_after(VAULT_WRITE)
    bodies, log = [b"%d " % number + BODY for number in range(30)], tmp_path / "worker.log"
    async with (
        api_apart(ways.direct, with_worker=False) as client,
        contextlib.AsyncExitStack() as stack,
    ):
        declared = await asyncio.gather(*(upload(client, body) for body in bodies))
        stuck = stack.enter_context(started(["worker"], log, environ=as_environment(ways.settings)))
        await asyncio.gather(*(report(client, ways.settings, direct, one) for one in declared))
        assert await asyncio.to_thread(ways.store.silenced.wait, 60), log.read_text()
        held = await find_held(direct)
        assert held
        stack.enter_context(started(["worker"], log, environ=as_environment(ways.direct)))

        async def some_are_ready() -> bool:
            return bool(
                await direct.pool.fetchval("SELECT count(*) FROM files WHERE state = 'ready'")
            )

        await until(some_are_ready)
        assert held & await find_held(direct)
        stuck.kill()
        for one, body in zip(declared, bodies, strict=True):
            assert (await read_metadata(client, one, wait=20))["state"] == "ready"
            await check_served(client, direct, one, body)
    await check_all(direct)


async def find_held(direct: Resources) -> set[UUID]:
    """Return the live leases."""
    return {
        row["lease"]
        for row in await direct.pool.fetch("SELECT lease FROM files WHERE lease_until > now()")
    }
