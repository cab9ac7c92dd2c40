"""Requests as a client without a key sends them, with any headers."""

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
    """A response.

    `headers` has names in lower case, and joins repeated values with a comma (RFC 9110, section
    5.3).
    """

    status: int
    headers: Mapping[str, str]

    @property
    def date(self) -> str | None:
        """Return the Date header, which shows the server's clock, or None if there is none."""
        return self.headers.get("date")

    @property
    def accepts(self) -> bool:
        return self.status == 200

    @property
    def refuses(self) -> bool:
        """Return whether the request was refused.

        A failure (5xx) or a redirect (3xx) is not a refusal.
        """
        return 400 <= self.status < 500


async def send(
    method: str,
    url: str,
    *,
    body: bytes = b"",
    headers: Mapping[str, str] | None = None,
    more: Sequence[tuple[str, str]] = (),
) -> Answer:
    """Send one request with these headers, Host and Content-Length. Raises StoreUnavailable.

    `more` may contain several headers of one name.
    """
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
