"""uvicorn around the application: a socket of ours, an end in good order."""

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
"""How long requests under way may take when the process is told to stop."""


def run_api(
    app: Litestar,
    listener: socket.socket,
    limits: Limits,
    *,
    on_start: Callable[["Server"], None] | None = None,
) -> None:
    """Serve until SIGINT or SIGTERM, which then come out as KeyboardInterrupt: requests end first, then the lifespan."""
    server = Server(make_config(app, limits), on_start)
    server.run(sockets=[listener])
    if not server.started:
        sys.exit(3)  # the lifespan has said why


def make_config(app: Any, limits: Limits, *, stop_seconds: int = STOP_SECONDS) -> uvicorn.Config:
    """The configuration of one server: the product's, and that of tests and benchmarks."""
    protocol = partial(HttpProtocol, limits=limits, admission=Admission(limits))
    return uvicorn.Config(
        app,
        loop="auto",
        http=cast(
            "type[asyncio.Protocol]", protocol
        ),  # uvicorn calls it, and asks nothing else of it
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,  # X-Forwarded-* makes no URL
        timeout_graceful_shutdown=stop_seconds,
    )


class Server(uvicorn.Server):
    """uvicorn, and a call when it accepts connections."""

    def __init__(self, config: uvicorn.Config, on_start: Callable[["Server"], None] | None) -> None:
        super().__init__(config)
        self.on_start = on_start

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started and self.on_start is not None:
            self.on_start(self)

    async def main_loop(self) -> None:
        """uvicorn's own looks ten times a second whether it is to stop, which is most of what an idle process costs."""
        while not await self.on_tick(0):  # noqa: ASYNC110  # it sets the clock of the Date header as well
            await asyncio.sleep(TICK_SECONDS)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Requests under way end; those that only wait for a file are answered now, and streams of events end.

        What is left after STOP_SECONDS is a client that does not read: uvloop would wait for it for ever when it closes.
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
    """A socket that is bound and does not listen yet: who connects too early is refused rather than kept waiting."""
    if not 0 <= port < 65536:
        raise CommandError(f"--port {port}: a port is a number from 0 to 65535")
    try:
        return bound(host, port)
    except OSError as error:
        raise CommandError(
            f"{host} port {port} can't be had ({error.strerror}): is it in use? Choose another one with --port."
        ) from error


def stop_on_sigterm() -> None:
    """SIGTERM ends the process as Ctrl-C does: by KeyboardInterrupt, so that everything on the way is closed."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
