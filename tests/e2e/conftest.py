"""Fixtures that run the real server and its worker in a thread, over each store.

The store's webhook points at the server. There is one API for each store and session. Each test
has its own owner, and therefore sees no files of other tests.
"""

import asyncio
import contextlib
import dataclasses
import functools
import secrets
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar

import httpx
import msgspec
import pytest

from service import database
from service.app import create_app
from service.auth.principals import make_key
from service.cli.api import Server, make_config
from service.embedded.processes import bound
from service.http.server.limits import Limits, make_limits
from service.model import make_id
from service.object_store import Bucket
from service.operations.bootstrap import bootstrap
from service.queries.keys import create_key
from service.resources import Resources, open_resources
from service.settings import (
    BaseUrl,
    Bytes,
    Deployment,
    HeaderSecret,
    Location,
    Secret,
    Settings,
    Url,
)
from service.telemetry.logs import configure_logs
from tests.conftest import TEMPLATE, execute, in_database
from tests.e2e.leaks import check_log, keep_secret
from tests.e2e.nginx import Nginx, Servers, find_nginx, running_nginx
from tests.e2e.people import Person, make_person
from tests.support.proxies import FaultyProxy, faulty_way
from tests.support.running import logging_as_before, make_settings
from tests.support.servers import reserved_port, store_kinds
from tests.support.stores import API_WEBHOOK_ID, StoreUnderTest, new_deployment, running_store
from tests.support.trust import TRUSTED

T = TypeVar("T")
ACCEL = {
    "accel_redirect": Location("/vault/"),
    "accel_secret": HeaderSecret(Secret(secrets.token_hex(16))),
    "accel_min_bytes": Bytes(1),
}
LOG = pytest.StashKey[Path]()
LOG_CHARACTERS = 6000
END_SECONDS = 40
"""More than the time that a stopping server allows for its requests and its worker's files."""


@dataclass(frozen=True)
class Owner:
    """An owner of files, and the owner's API key."""

    name: str
    key: str = field(repr=False)

    @property
    def headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.key}"}


@dataclass(frozen=True)
class Api:
    """A running server."""

    url: str
    settings: Settings
    deployment: Deployment = field(repr=False)
    store: StoreUnderTest

    def new_owner(
        self, *, scopes: tuple[str, ...] = ("read", "write"), expires_in: timedelta | None = None
    ) -> Owner:
        name = f"owner-{secrets.token_hex(6)}"
        return Owner(name, self.new_key(name, scopes=scopes, expires_in=expires_in))

    def new_key(
        self, owner: str, *, scopes: tuple[str, ...], expires_in: timedelta | None = None
    ) -> str:
        key = run_apart(new_key(self.settings, owner, scopes=scopes, expires_in=expires_in))
        keep_secret([key])
        return key


def run_apart(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run the coroutine in a separate thread, so that a test may call this in its event loop."""
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(asyncio.run, coroutine).result()


async def new_key(
    settings: Settings, owner: str, *, scopes: tuple[str, ...], expires_in: timedelta | None
) -> str:
    text, secret = make_key()
    pool = await database.open_pool(settings)
    async with pool:
        now: datetime = await pool.fetchval("SELECT now()")
        await create_key(
            pool,
            key_id=make_id(),
            owner=owner,
            name="test",
            secret=secret,
            scopes=list(scopes),
            expires_at=now + expires_in if expires_in is not None else None,
        )
    return text


@pytest.fixture(scope="session")
def logs(folder: Path, pytestconfig: pytest.Config) -> Iterator[Path]:
    """Yield the log of all servers of this run, and then check that it contains no secret."""
    pytestconfig.stash[LOG] = path = folder / "e2e.log"
    with path.open("w") as stream, logging_as_before():
        configure_logs("debug", stream=stream)
        yield path
    text = path.read_text()
    assert '"event": "request"' in text
    check_log(text)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Add the last whole lines that the servers have logged to the report of a failure."""
    report = yield
    log = item.config.stash.get(LOG, None)
    if report.failed and log is not None:
        _, _, lines = ("\n" + log.read_text())[-LOG_CHARACTERS:].partition("\n")
        report.sections.append(("Log of the servers", lines))
    return report


@pytest.fixture(scope="session")
def apis(admin_url: str, logs: Path) -> Iterator[Callable[[StoreUnderTest], Api]]:
    found: dict[str, Api] = {}
    with contextlib.ExitStack() as stack:

        def start(store: StoreUnderTest) -> Api:
            if store.kind not in found:
                found[store.kind] = stack.enter_context(running_api(admin_url, store))
            return found[store.kind]

        yield start


@contextlib.contextmanager
def running_api(admin_url: str, store: StoreUnderTest, **changes: Any) -> Iterator[Api]:
    """Run an API at the address to which the store's webhook points.

    `changes` replace settings of the API.
    """
    name = f"assay_{secrets.token_hex(6)}"
    asyncio.run(execute(admin_url, f"CREATE DATABASE {name} TEMPLATE {TEMPLATE}"))
    deployment = new_deployment(
        store, webhook_id=API_WEBHOOK_ID, reader="accel_redirect" in changes
    )
    bootstrap(deployment)
    settings = msgspec.structs.replace(
        make_settings(deployment, store, in_database(admin_url, name)),
        sweep_every=timedelta(seconds=1),
    )
    settings = msgspec.structs.replace(settings, **changes)
    keep_secret([*settings.secrets(), store.root_access_key, store.root_secret_key])
    with serving(settings, port=store.api_port) as url:
        yield Api(url, settings, deployment, store)
    asyncio.run(execute(admin_url, f"DROP DATABASE {name} WITH (FORCE)"))


@contextlib.contextmanager
def serving(
    settings: Settings, *, port: int = 0, with_worker: bool = True, limits: Limits | None = None
) -> Iterator[str]:
    """Run uvicorn in a separate thread, and yield its URL.

    The server accepts connections when this yields, and has stopped when this returns. `limits`
    replace the limits that follow from the settings.
    """
    listener = bound("127.0.0.1", port)
    config = make_config(
        create_app(settings, with_worker=with_worker),
        limits or make_limits(settings),
        stop_seconds=5,
    )
    server = Server(config, None)
    thread = threading.Thread(target=server.run, args=([listener],), daemon=True)
    thread.start()
    while not server.started and thread.is_alive():
        thread.join(0.02)
    try:
        assert thread.is_alive(), "the server did not start"
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(END_SECONDS)
        assert not thread.is_alive(), "the server does not end"


@pytest.fixture
def api(apis: Callable[[StoreUnderTest], Api], store: StoreUnderTest) -> Api:
    return apis(store)


# Behind nginx


@dataclass(frozen=True)
class Behind:
    """An API with its own store. Clients reach both through nginx alone.

    `direct` is the URL of the API without nginx. `way` is the proxy between nginx and the store.
    """

    api: Api
    nginx: Nginx
    direct: str
    way: FaultyProxy


@contextlib.contextmanager
def behind_nginx(admin_url: str, kind: str, folder: Path, *, accel: bool) -> Iterator[Behind]:
    """Run nginx, an API and a store of this kind.

    With `accel`, nginx sends the bytes of every download that is not empty.
    """
    with (
        running_store(kind, folder / f"store-{secrets.token_hex(4)}") as store,
        reserved_port() as port,
    ):
        origin = f"http://127.0.0.1:{port}"
        changes = {
            "s3_public_endpoint": Url(origin),
            "public_url": BaseUrl(origin),
            "webhook_id": API_WEBHOOK_ID,
            **(ACCEL if accel else {}),
        }
        with (
            running_api(admin_url, store, **changes) as api,
            faulty_way(store.endpoint) as (way, to_store),
        ):
            servers = {
                "api": api.url.removeprefix("http://"),
                # Only tests that use `accel` disturb the way, and others are not slowed by it.
                "store": (to_store if accel else store.endpoint).removeprefix("http://"),
            }
            with running_nginx(
                folder / f"nginx-{port}",
                port,
                Servers(
                    **servers,
                    bucket=api.deployment.incoming_bucket,
                    accel_secret=api.settings.accel_secret,
                ),
            ) as nginx:
                yield Behind(dataclasses.replace(api, url=origin), nginx, api.url, way)
            check_log(nginx.read_logs())


@pytest.fixture(scope="session")
def places_behind_nginx(
    admin_url: str, logs: Path, folder: Path
) -> Iterator[Callable[[str, bool], Behind]]:
    """Yield a function that returns the API of a kind of store, and starts it at the first call.

    Its second argument is that of `behind_nginx`.
    """
    with contextlib.ExitStack() as stack:
        yield functools.cache(
            lambda kind, accel: stack.enter_context(
                behind_nginx(admin_url, kind, folder, accel=accel)
            )
        )


@pytest.fixture(params=store_kinds())
def behind(request: pytest.FixtureRequest) -> Behind:
    """Return an API behind nginx, which reads all bytes of downloads from the API.

    A module can name other parameters: a kind of store, with ` accel` if nginx reads the vault.
    """
    find_nginx()  # skips or fails the test before any server is started
    kind, _, accel = request.param.partition(" ")
    place: Behind = request.getfixturevalue("places_behind_nginx")(kind, accel == "accel")
    return place


@pytest.fixture
def owner(api: Api) -> Owner:
    return api.new_owner()


@pytest.fixture
def person(api: Api, owner: Owner, tmp_path: Path) -> Person:
    """Return a person who uses the command line with the owner's key."""
    return make_person(api.url, owner.key, tmp_path)


@pytest.fixture
def admin(api: Api) -> Owner:
    return api.new_owner(scopes=("admin",))


@pytest.fixture
async def client(api: Api, owner: Owner) -> AsyncIterator[httpx.AsyncClient]:
    """Yield an HTTP client that sends the owner's key."""
    async with httpx.AsyncClient(
        base_url=api.url, headers=owner.headers, timeout=30, verify=TRUSTED
    ) as client:
        yield client


@pytest.fixture
async def intruder(api: Api) -> AsyncIterator[httpx.AsyncClient]:
    """Yield an HTTP client that sends the key of another owner."""
    async with httpx.AsyncClient(
        base_url=api.url, headers=api.new_owner().headers, timeout=30, verify=TRUSTED
    ) as client:
        yield client


@pytest.fixture
async def anonymous() -> AsyncIterator[httpx.AsyncClient]:
    """Yield an HTTP client without a key, for the store and for public routes."""
    async with httpx.AsyncClient(timeout=30, verify=TRUSTED) as client:
        yield client


@pytest.fixture
async def resources(api: Api) -> AsyncIterator[Resources]:
    """Open the server's database and buckets, so that a test can inspect both."""
    async with open_resources(api.settings) as opened:
        yield opened


# A separate deployment for one test


@contextlib.asynccontextmanager
async def api_apart(settings: Settings, *, with_worker: bool) -> AsyncIterator[httpx.AsyncClient]:
    """Run a server with the given settings, and yield a client that has a key.

    The server receives no events from a store.
    """
    key = run_apart(new_key(settings, "apart", scopes=("read", "write"), expires_in=None))
    keep_secret([key, *settings.secrets()])
    with serving(settings, with_worker=with_worker) as url:
        async with httpx.AsyncClient(
            base_url=url, headers={"Authorization": f"Bearer {key}"}, timeout=40, verify=TRUSTED
        ) as client:
            yield client


@dataclass(frozen=True)
class Apart:
    """An API without a worker, so that a test can stop its own worker at any point."""

    client: httpx.AsyncClient
    resources: Resources
    root_incoming: Bucket


@pytest.fixture
async def apart(settings: Settings, root_incoming: Bucket, logs: object) -> AsyncIterator[Apart]:
    async with (
        api_apart(settings, with_worker=False) as client,
        open_resources(settings) as resources,
    ):
        yield Apart(client, resources, root_incoming)


@dataclass(frozen=True)
class Ways:
    """Settings that reach the database and the store through proxies that can be cut.

    Clients reach the store directly. `direct` has the settings without proxies.
    """

    settings: Settings
    database: FaultyProxy
    store: FaultyProxy
    direct: Settings


@pytest.fixture
def ways(settings: Settings, logs: object) -> Iterator[Ways]:
    short = msgspec.structs.replace(
        settings, lease=timedelta(seconds=3), sweep_every=timedelta(seconds=1)
    )
    with (
        faulty_way(settings.database_url) as (to_database, database_url),
        faulty_way(settings.s3_endpoint) as (to_store, endpoint),
    ):
        switched = msgspec.structs.replace(
            short,
            database_url=Secret(database_url),
            s3_endpoint=Url(endpoint),
            s3_public_endpoint=settings.s3_endpoint,
        )
        yield Ways(
            switched,
            to_database,
            to_store,
            msgspec.structs.replace(short, s3_public_endpoint=settings.s3_endpoint),
        )


@pytest.fixture
async def direct(ways: Ways) -> AsyncIterator[Resources]:
    """Open the database and the store for the test itself, without the proxies."""
    async with open_resources(ways.direct) as opened:
        yield opened
