"""Requests as a client sends them: without a key of ours, with whatever headers."""

import asyncio
import http.client
import ssl
from collections.abc import Mapping, Sequence
from typing import Final
from urllib.parse import urlsplit

import msgspec

from service.object_store import StoreUnavailable

SECONDS: Final = 15.0


class Answer(msgspec.Struct, frozen=True):
    """`headers`: by their names in lower case; one that came twice has both values, with a comma between them (RFC 9110, 5.3)."""

    status: int
    headers: Mapping[str, str]

    @property
    def date(self) -> str | None:
        """The clock of whoever answered."""
        return self.headers.get("date")

    @property
    def accepts(self) -> bool:
        return self.status == 200

    @property
    def refuses(self) -> bool:
        """For what was asked: a server that could not answer (5xx), or sent us elsewhere (3xx), has refused nothing."""
        return 400 <= self.status < 500


async def send(
    method: str,
    url: str,
    *,
    body: bytes = b"",
    headers: Mapping[str, str] | None = None,
    more: Sequence[tuple[str, str]] = (),
) -> Answer:
    """One request with these headers, Host and the body's length. `more` may have several of one name. Raises StoreUnavailable."""
    try:
        return await asyncio.to_thread(
            send_now, method, url, body=body, headers=[*(headers or {}).items(), *more]
        )
    except (OSError, http.client.HTTPException) as error:
        raise StoreUnavailable(
            f"{method} {urlsplit(url).netloc}: {type(error).__name__}"
        ) from error


def send_now(method: str, url: str, *, body: bytes, headers: Sequence[tuple[str, str]]) -> Answer:
    parts = urlsplit(url)
    host = parts.hostname or ""
    if parts.scheme == "https":
        connection: http.client.HTTPConnection = http.client.HTTPSConnection(
            host, parts.port, timeout=SECONDS, context=ssl.create_default_context()
        )
    else:
        connection = http.client.HTTPConnection(host, parts.port, timeout=SECONDS)
    try:
        connection.putrequest(
            method,
            f"{parts.path or '/'}{'?' + parts.query if parts.query else ''}",
            skip_accept_encoding=True,
        )
        for name, value in [*headers, ("Content-Length", str(len(body)))]:
            connection.putheader(name, value)
        connection.endheaders(body)
        response = connection.getresponse()
        response.read()
        answered = response.headers
        return Answer(
            response.status,
            {name.lower(): ", ".join(answered.get_all(name, [])) for name in answered},
        )
    finally:
        connection.close()
