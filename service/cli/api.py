"""The server of the API: uvicorn with a prepared socket and an orderly shutdown."""

import asyncio
import signal
import socket
import sys
from collections.abc import Callable
from functools import partial
from typing import Any, Final, cast

import uvicorn
from litestar import Litestar

from service.cli.errors import CommandError
from service.embedded.processes import bound
from service.http.server.admission import Admission
from service.http.server.limits import Limits
from service.http.server.protocol import HttpProtocol

TICK_SECONDS: Final = 0.5
STOP_SECONDS: Final = 30
"""The time for which requests in progress may continue after the process was signalled to stop."""


def run_api(
    app: Litestar,
    listener: socket.socket,
    limits: Limits,
    *,
    on_start: Callable[["Server"], None] | None = None,
) -> None:
    """Serve until SIGINT or SIGTERM, which end as KeyboardInterrupt.

    Requests end first, then the lifespan.
    """
    server = Server(make_config(app, limits), on_start)
    server.run(sockets=[listener])
    if not server.started:
        sys.exit(3)  # the lifespan has logged the reason


def make_config(app: Any, limits: Limits, *, stop_seconds: int = STOP_SECONDS) -> uvicorn.Config:
    protocol = partial(HttpProtocol, limits=limits, admission=Admission(limits))
    return uvicorn.Config(
        app,
        loop="auto",
        http=cast("type[asyncio.Protocol]", protocol),  # uvicorn only calls it
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,  # X-Forwarded-* headers never contribute to a URL
        timeout_graceful_shutdown=stop_seconds,
    )


class Server(uvicorn.Server):
    """A uvicorn server that calls `on_start` when it accepts connections."""

    def __init__(self, config: uvicorn.Config, on_start: Callable[["Server"], None] | None) -> None:
        super().__init__(config)
        self.on_start = on_start

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started and self.on_start is not None:
            self.on_start(self)

    async def main_loop(self) -> None:
        """Run until the server has to stop.

        uvicorn's own loop checks that ten times per second, which is most of the cost of an idle
        process.
        """
        while not await self.on_tick(0):  # noqa: ASYNC110  # it also sets the Date header's clock
            await asyncio.sleep(TICK_SECONDS)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Let requests in progress end. Waiting requests are answered now, and event streams end.

        A connection that is left after STOP_SECONDS has a client that does not read. It is aborted,
        because uvloop would otherwise never finish closing it.
        """
        resources = (
            getattr(self.config.app.state, "resources", None)
            if isinstance(self.config.app, Litestar)
            else None
        )
        if resources is not None:
            resources.notifications.stop_waiting()
        await super().shutdown(sockets)
        for connection in list(self.server_state.connections):
            connection.transport.abort()


def reserve_port(host: str, port: int) -> socket.socket:
    """Return a bound socket that does not listen yet, so that clients that connect too early are
    refused at once.
    """
    if not 0 <= port < 65536:
        raise CommandError(f"--port {port}: a port must be a number from 0 to 65535")
    try:
        return bound(host, port)
    except OSError as error:
        raise CommandError(
            f"cannot listen on {host} port {port} ({error.strerror});"
            " choose another port with --port"
        ) from error


def stop_on_sigterm() -> None:
    """Raise KeyboardInterrupt on SIGTERM, as on Ctrl-C, so that everything is closed in order."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
