"""`assay dev`: everything on one machine, with nothing installed but wheels.

1. Check the installation and the exposure, take the data folder, reserve the API's port. Nothing runs yet: each refusal leaves nothing
   behind.
2. Side by side: start PostgreSQL and migrate it, start the store and bootstrap it. One that fails: the other one is stopped again.
   The webhook's endpoint does not answer yet: events wait in the store's queue.
3. Make the API key, or take the one of the last run.
4. Run the API and the worker in this process. When it is ready, say so.
5. The end (Ctrl-C, SIGTERM, a server that died): the API ends, then the store, then PostgreSQL. kill -9: the kernel ends both.
"""

import asyncio
import importlib
import logging
import os
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from service.cli.api import Server, reserve_port, run_api, stop_on_sigterm
from service.cli.dev_folder import (
    WEBHOOK_ID,
    Development,
    choose_folder,
    describe,
    describe_json,
    keep_api_key,
    keep_identities,
    make_deployment,
    make_settings,
    read_public_endpoint,
)
from service.cli.errors import CommandError
from service.cli.ports import claimed_port
from service.database.schema import SchemaError, run_alembic
from service.embedded import Postgres, Store, Webhook, prepare_folder, start_postgres, start_store
from service.embedded.folder import locked
from service.embedded.postgres import find_binaries
from service.embedded.processes import answers
from service.embedded.store import find_gateway, loopback_of
from service.http.server.limits import make_limits
from service.operations.bootstrap import bootstrap
from service.telemetry.logs import configure_logs

POSTGRES_PORT: Final = 5432
STORE_PORT: Final = 9000
LOOPBACK: Final = ("127.0.0.1", "localhost", "::1")
LOOK_SECONDS: Final = 0.05
QUIET_SECONDS: Final = 0.5


def dev(
    *,
    data: Path | None = None,
    host: str = "127.0.0.1",
    port: int = 8000,
    minio: Path | None = None,
    json: bool = False,
) -> None:
    """Run everything on this machine: PostgreSQL, a store, the API and a worker.

    Parameters
    ----------
    data
        The folder for all data, kept between runs. Default: one of the user's own.
    host
        The address that the API and the store listen on. Others reach them in plain HTTP, so it is for a trusted network; an address
        other than loopback needs ASSAY_S3_PUBLIC_ENDPOINT, the store's address as others see it.
    port
        The API's port. The servers behind it take the next free ports.
    minio
        A `minio` or `silo` binary to run in the place of the embedded store.
    json
        When all is ready, print one line of JSON and nothing else.
    """
    stop_on_sigterm()
    configure_logs("info")
    logging.getLogger("alembic").setLevel(logging.WARNING)
    check_installed(minio)
    public_endpoint = read_public_endpoint()
    check_exposure(host, public_endpoint)
    folder = prepare_folder(data or choose_folder())
    with ExitStack() as stack:
        stack.enter_context(locked(folder / "dev.lock"))
        listener = stack.enter_context(reserve_port(host, port))
        development = start_servers(
            stack, folder, host=host, port=listener.getsockname()[1], minio=minio
        )
        for line in describe_exposure(
            host, public_endpoint, store=development.store.endpoint, embedded=minio is None
        ):
            print(line, file=sys.stderr)
        key = asyncio.run(keep_api_key(development))
        watch = Watch(
            development,
            say=lambda: print(
                describe_json(development, key) if json else describe(development, key), flush=True
            ),
        )
        from service.app import create_app  # loaded while the servers started

        settings = make_settings(development)
        run_api(
            create_app(settings, with_worker=True),
            listener,
            make_limits(settings),
            on_start=watch.begin,
        )
    if watch.failure:
        raise CommandError(watch.failure)


def check_installed(minio: Path | None) -> None:
    """Refuse to start without the packages of the extra `embedded`; with `--minio` its store is not needed. Raises EmbeddedError."""
    find_binaries()
    if minio is None:
        find_gateway()


def check_exposure(host: str, public_endpoint: str | None) -> None:
    """Refuse an exposure in which upload URLs would name an address that other hosts cannot use. Raises CommandError."""
    if host not in LOOPBACK and public_endpoint is None:
        raise CommandError(
            f"--host {host} needs ASSAY_S3_PUBLIC_ENDPOINT, the store's address as others see it, such as http://192.0.2.7:9000: "
            "upload URLs name it, and it is signed"
        )


def describe_exposure(
    host: str, public_endpoint: str | None, *, store: str, embedded: bool
) -> list[str]:
    """Return what an operator should know who opens this to other hosts, a line each; nothing for this machine alone."""
    if host in LOOPBACK:
        return []
    lines = ["others reach this in plain HTTP, keys and files included: only on a trusted network"]
    if embedded:
        lines.append(
            "the embedded store is for development (code of 2022, no fixes): the holder of an upload URL may send other bytes again until "
            "the file is proved; --minio PATH runs a store that refuses"
        )
    if urlsplit(public_endpoint or "").port != urlsplit(store).port:
        lines.append(
            f"the store listens at port {urlsplit(store).port}, while upload URLs name {public_endpoint}: something must pass them on"
        )
    return lines


def start_servers(
    stack: ExitStack, folder: Path, *, host: str, port: int, minio: Path | None
) -> Development:
    """Both at once, and our own imports meanwhile."""
    if minio is not None and not os.access(minio, os.X_OK):
        raise CommandError(f"--minio {minio} is no program that can be run")
    identities = keep_identities(folder)
    api = address_of(host, port)
    postgres_port = stack.enter_context(claimed_port("127.0.0.1", POSTGRES_PORT))
    store_port = stack.enter_context(claimed_port(host, STORE_PORT))

    def prepare_postgres() -> Postgres:
        postgres = stack.enter_context(start_postgres(folder, port=postgres_port, fsync=True))
        try:
            run_alembic(postgres.url)
        except SchemaError as error:
            raise CommandError(
                f"{folder} is of another version of assay: remove that folder, or name another one with --data"
            ) from error
        return postgres

    def prepare_store() -> Store:
        webhooks = {WEBHOOK_ID: Webhook(f"{api}/webhooks/minio", identities.webhook_token)}
        store = stack.enter_context(
            start_store(folder, binary=minio, webhooks=webhooks, host=host, port=store_port)
        )
        bootstrap(make_deployment(store, identities))
        return store

    with ThreadPoolExecutor() as preparing:
        postgres, store = preparing.submit(prepare_postgres), preparing.submit(prepare_store)
        importlib.import_module("service.app")
    return Development(
        folder=folder,
        api=api,
        postgres=postgres.result(),
        store=store.result(),
        identities=identities,
    )


def address_of(host: str, port: int) -> str:
    """Where this machine itself finds what listens there."""
    reach = loopback_of(host)
    return f"http://[{reach}]:{port}" if ":" in reach else f"http://{reach}:{port}"


class Watch:
    """Says when all is ready, and ends the API when a server behind it has died."""

    def __init__(self, development: Development, *, say: Callable[[], None]) -> None:
        self.development = development
        self.say = say
        self.failure = ""
        self.task: asyncio.Task[None] | None = None

    def begin(self, server: Server) -> None:
        self.task = asyncio.create_task(self.watch(server))

    async def watch(self, server: Server) -> None:
        said = False
        while not server.should_exit:
            if not said and await asyncio.to_thread(is_ready, self.development.api):
                with suppress(BrokenPipeError):  # nobody reads it: no reason to stop
                    self.say()
                said = True
            self.failure = self.development.describe_death()
            if self.failure:
                server.should_exit = True
            await asyncio.sleep(LOOK_SECONDS if not said else QUIET_SECONDS)


def is_ready(api: str) -> bool:
    address = urlsplit(api)
    return answers(
        address.port or 80, "/health/ready?full=1", host=address.hostname or "", status=200
    )
