"""`assay dev`: everything on one machine, with nothing installed but wheels.

1. Check the installation and the exposure, lock the data folder, and reserve the API's port.
   Nothing runs yet, so a refusal leaves nothing behind.
2. At the same time, start PostgreSQL and migrate it, and start the store and bootstrap it. If one
   of them fails, stop the other. The webhook's endpoint does not answer yet, so events wait in the
   store's queue.
3. Create the API key, or use the one of the last run.
4. Run the API and the worker in this process, and print the address and the key when it is ready.
5. At the end (Ctrl-C, SIGTERM, or a server that has exited), stop the API, then the store, then
   PostgreSQL. After kill -9, the kernel ends both servers.
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
from service.cli.platforms import describe_unsupported
from service.cli.ports import claimed_port
from service.cli.standard_streams import print_result
from service.database.schema import SchemaError, run_alembic
from service.embedded import (
    EmbeddedError,
    Postgres,
    Store,
    Webhook,
    prepare_folder,
    start_postgres,
    start_store,
)
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
        The folder for all data, which is kept between runs. Default: a folder of the user.
    host
        The address on which the API and the store listen. Other hosts use plain HTTP, so it is for
        a trusted network. An address other than loopback needs ASSAY_S3_PUBLIC_ENDPOINT, the
        store's address as others see it.
    port
        The API's port. The other servers use the next free ports.
    minio
        A `minio` or `silo` binary to run instead of the embedded store.
    json
        Print one line of JSON when everything is ready, and nothing else.
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
            say=lambda: print_result(
                describe_json(development, key) if json else describe(development, key)
            ),
        )
        from service.app import create_app  # it was loaded while the servers started

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
    """Raise EmbeddedError if a package of the extra `embedded` is missing, and CommandError if it
    does not exist for this platform.

    `--minio` needs no embedded store.
    """
    try:
        find_binaries()
        if minio is None:
            find_gateway()
    except EmbeddedError as error:
        if unsupported := describe_unsupported():
            raise CommandError(unsupported) from error
        raise


def check_exposure(host: str, public_endpoint: str | None) -> None:
    """Refuse an exposure in which upload URLs would name an address that other hosts cannot use.

    Raises CommandError.
    """
    if host not in LOOPBACK and public_endpoint is None:
        raise CommandError(
            f"--host {host} needs ASSAY_S3_PUBLIC_ENDPOINT, because upload URLs contain it:"
            " set it to the store's address as others see it, such as http://192.0.2.7:9000"
        )


def describe_exposure(
    host: str, public_endpoint: str | None, *, store: str, embedded: bool
) -> list[str]:
    """Return the warnings about use by other hosts, or an empty list if only this machine has
    access.
    """
    if host in LOOPBACK:
        return []
    lines = ["other hosts send keys and files over plain HTTP; use this only on a trusted network"]
    if embedded:
        lines.append(
            "the embedded store is for development (its code dates from 2022 and gets no fixes):"
            " until a file is proved, the holder of its upload URL can replace the bytes;"
            " --minio PATH runs a store that refuses this"
        )
    if urlsplit(public_endpoint or "").port != urlsplit(store).port:
        lines.append(
            f"the store listens on port {urlsplit(store).port}, but upload URLs name"
            f" {public_endpoint}; a proxy must forward these requests"
        )
    return lines


def start_servers(
    stack: ExitStack, folder: Path, *, host: str, port: int, minio: Path | None
) -> Development:
    """Start both servers at the same time, and import the application meanwhile."""
    if minio is not None and not os.access(minio, os.X_OK):
        raise CommandError(f"--minio {minio} is not an executable program")
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
                f"{folder} was written by another version of assay;"
                " remove that folder, or name another one with --data"
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
    """Return the URL under which this machine itself reaches the address."""
    reach = loopback_of(host)
    return f"http://[{reach}]:{port}" if ":" in reach else f"http://{reach}:{port}"


class Watch:
    """A task that calls `say` when everything is ready, and stops the API if a server exits."""

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
                with suppress(BrokenPipeError):  # a closed output is no reason to stop
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
