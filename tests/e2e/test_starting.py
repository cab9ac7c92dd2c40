"""Tests of processes that start while their database or store is unavailable."""

import contextlib
import secrets
from collections.abc import Iterator

import httpx
import msgspec
import pytest

from service import database
from service.app import create_app
from service.database import SchemaError
from service.settings import DatabaseSettings, Secret, Url
from tests.conftest import execute, in_database
from tests.e2e.conftest import Api, Owner, serving
from tests.e2e.jobs import announce, check_unavailable, declare, in_pieces
from tests.support.servers import reserved_port
from tests.support.trust import TRUSTED

pytestmark = pytest.mark.anyio


@contextlib.contextmanager
def serving_without_database(api: Api) -> Iterator[str]:
    """Run a server of the same deployment with a database URL at which no server listens."""
    with reserved_port() as port:
        nowhere = Secret(f"postgresql://assay:assay@127.0.0.1:{port}/assay")
        with serving(msgspec.structs.replace(api.settings, database_url=nowhere)) as url:
            yield url


async def test_a_server_without_its_database_starts_and_reports_it(api: Api, owner: Owner) -> None:
    with serving_without_database(api) as url:
        async with httpx.AsyncClient(base_url=url, timeout=10, verify=TRUSTED) as client:
            assert (await client.get("/health/live")).status_code == 200
            ready = await client.get("/health/ready")
            assert (ready.status_code, ready.json()["status"]) == (503, "starting")
            client.headers.update(owner.headers)
            for answer in (
                await client.get("/files"),
                await client.post("/files/upload", params={"filename": "a"}, content=b"bytes"),
                await client.put("/upload/a", content=b"bytes"),
                await client.put("/upload/a", content=in_pieces(b"bytes")),
            ):
                check_unavailable(answer, "database")
            assert "assay_database_up 0.0" in (await client.get("/metrics")).text


async def test_an_event_that_cannot_be_recorded_gets_503(api: Api) -> None:
    headers = {"Authorization": f"Bearer {api.settings.webhook_token[0]}"}
    with serving_without_database(api) as url:
        async with httpx.AsyncClient(
            base_url=url, timeout=10, headers=headers, verify=TRUSTED
        ) as client:
            assert (await announce(client, api.settings, "0" * 32)).status_code == 503
            assert (await client.post("/webhooks/minio", json={"Records": []})).status_code == 204


async def test_without_the_store_only_requests_that_need_it_fail(api: Api, owner: Owner) -> None:
    with contextlib.ExitStack() as stack:
        nowhere = Url(f"http://127.0.0.1:{stack.enter_context(reserved_port())}")
        url = stack.enter_context(
            serving(msgspec.structs.replace(api.settings, s3_endpoint=nowhere), with_worker=False)
        )
        async with httpx.AsyncClient(
            base_url=url, timeout=30, headers=owner.headers, verify=TRUSTED
        ) as client:
            ready = await client.get("/health/ready")
            assert (ready.status_code, ready.json()) == (
                200,
                {"status": "degraded", "away": ["store"], "detail": None, "stopped": None},
            )
            assert (await client.get("/health/ready", params={"full": 1})).status_code == 503
            declared = await declare(client, b"bytes")
            assert (await client.put("/upload/a", content=b"bytes")).status_code == 307
            assert (
                await client.post(f"/files/{declared['file']['id']}/complete")
            ).status_code == 202
            for answer in (
                await client.post("/files/upload", params={"filename": "a"}, content=b"bytes"),
                await client.put("/upload/a", content=in_pieces(b"bytes")),
            ):
                check_unavailable(answer, "store")


def refused(why: str) -> contextlib.AbstractContextManager[object]:
    return pytest.RaisesGroup(pytest.RaisesExc(SchemaError, match=why), flatten_subgroups=True)


async def test_a_server_refuses_to_start_with_another_schema(api: Api, admin_url: str) -> None:
    name = f"assay_{secrets.token_hex(6)}"
    await execute(admin_url, f"CREATE DATABASE {name}")
    settings = msgspec.structs.replace(
        api.settings, database_url=Secret(in_database(admin_url, name))
    )
    app = create_app(settings)
    with refused("empty"):
        async with app.lifespan():
            pass
    await database.migrate(DatabaseSettings(database_url=settings.database_url))
    async with app.lifespan():
        assert app.state.readiness.phase == "running"
    await execute(in_database(admin_url, name), "UPDATE alembic_version SET version_num = '9999'")
    with refused("newer than this version of assay"):
        async with app.lifespan():
            pass
    await execute(admin_url, f"DROP DATABASE {name} WITH (FORCE)")
