"""Deployments for the doctor to examine: with one setting changed, or with a faulty store."""

import threading
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import msgspec

from service.operations.doctor import Finding, events, examine
from service.resources import Resources, open_resources
from service.settings import Settings, Url

AnswerTo = Callable[[str, str, Mapping[str, str], bytes], int]
"""A function from method, path with query, headers and body to the status of the response."""


@asynccontextmanager
async def changed(settings: Settings, **changes: Any) -> AsyncIterator[Resources]:
    async with open_resources(msgspec.structs.replace(settings, **changes)) as opened:

        async def listens() -> bool:
            return opened.notifications.connected

        # asyncpg logs an error if a connection is closed while it is being opened
        await events.wait_for(listens, seconds=0 if "database_url" in changes else 5)
        yield opened


def with_urls_to(resources: Resources, endpoint: str) -> Resources:
    """Return resources whose upload URLs lead to `endpoint`, and whose buckets are unchanged."""
    return msgspec.structs.replace(
        resources, settings=msgspec.structs.replace(resources.settings, s3_endpoint=Url(endpoint))
    )


def statuses(findings: list[Finding]) -> dict[str, str]:
    return {finding.name: finding.status for finding in findings}


async def examine_all(resources: Resources) -> dict[str, Finding]:
    return {finding.name: finding async for finding in examine(resources)}


def failures(found: Mapping[str, Finding]) -> set[str]:
    """Return the names of the failed findings, except two that fail in all these deployments.

    No API takes the events of these deployments, and their key ids can be guessed.
    """
    return {name for name, finding in found.items() if finding.status == "failed"} - {
        "event",
        "key id of the service identity",
    }


@contextmanager
def answering(answer: AnswerTo | int) -> Iterator[str]:
    """Yield the address of a server that answers every request with this status."""

    class Answering(BaseHTTPRequestHandler):
        def answer(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", "0")))
            status = (
                answer
                if isinstance(answer, int)
                else answer(self.command, self.path, dict(self.headers), body)
            )
            self.send_response(status)
            self.send_header("Content-Length", "0")
            self.end_headers()

        do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = answer  # noqa: N815  # the parent's names

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Answering)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
