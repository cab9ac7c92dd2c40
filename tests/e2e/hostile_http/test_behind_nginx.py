"""Tests of a hostile and an honest client behind an nginx that forwards Upgrade.

All requests share the one connection that nginx keeps open to the API. If the API and nginx
disagree about the end of a hostile request, the honest client's request becomes part of the
hostile one, or gets the response to another request.
"""

import contextlib
import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import httpx
import pytest

from tests.e2e.conftest import Api
from tests.e2e.hostile_http.cases import FRAMING, Case, fill
from tests.e2e.hostile_http.site import Site, open_site
from tests.e2e.jobs import digest
from tests.e2e.nginx import Servers, find_nginx, running_nginx
from tests.support.servers import reserved_port
from tests.support.trust import TRUSTED
from tests.support.wire import Answer, Ended, Wire

REPAIRED: Final = {
    "RFC 9112 7.1": (b"hello", b"hello\r"),
    "RFC 9112 7.1.1": (b"hello", b"x" * 1024),
    "RFC 9110 6.5.1": (b"hello",),
}
"""The bodies that the API receives, by rule, where nginx repairs a request.

Without nginx, the API would refuse these requests. nginx accepts LF in place of CRLF, and drops
chunk extensions and trailers.
"""
REFUSED_BY_NGINX: Final = frozenset({400, 405, 411, 413, 414, 501, 505})


@dataclass(frozen=True)
class Behind:
    """An nginx at `site.url`, the hostile owner `site.owner`, and a client of an honest owner."""

    site: Site
    honest: httpx.Client


@pytest.fixture(scope="session")
def behind_websockets(one_api: Api, folder: Path) -> Iterator[Behind]:
    find_nginx()
    api = one_api.url.removeprefix("http://")
    store = one_api.store.endpoint.removeprefix("http://")
    hostile, honest = one_api.new_owner(), one_api.new_owner()
    with (
        reserved_port() as port,
        running_nginx(
            folder / f"nginx-{port}", port, Servers(api, store, bucket="none"), websockets=True
        ) as nginx,
        open_site(nginx.url, one_api.settings, owner=hostile.name, key=hostile.key) as site,
        httpx.Client(
            base_url=nginx.url, headers=honest.headers, timeout=20, verify=TRUSTED
        ) as client,
    ):
        yield Behind(site, client)


@pytest.mark.parametrize("case", FRAMING, ids=str)
def test_a_hostile_request_affects_no_other_client(behind_websockets: Behind, case: Case) -> None:
    """Send honest requests while the hostile connection is open, and again after it."""
    site, name = behind_websockets.site, secrets.token_hex(6)
    with Wire(site.url) as wire, contextlib.suppress(Ended):
        wire.send(*fill(case.segments, site.values(name)))
        check_hostile(case, wire.read_answer(case.method, version=case.version))
        check_honest(behind_websockets)
        wire.finish_sending()
        wire.check_closed()
    check_honest(behind_websockets)
    check_stored(site, case, site.take_new(), name=name)


def check_hostile(case: Case, answer: Answer) -> None:
    """Check that the API's response is the same as without nginx.

    nginx may itself refuse or repair a request. If nginx buffers the whole body before it connects
    to the API, it sends a Content-Length. The API then answers a PUT with a redirect.
    """
    if b"<center>nginx</center>" in answer.body:
        assert answer.status in REFUSED_BY_NGINX, answer
    elif case.section not in REPAIRED:
        redirects = {307} if case.segments[0].startswith(b"PUT ") else set()
        assert answer.status in case.statuses | redirects, answer


def check_stored(site: Site, case: Case, new: list[dict[str, Any]], *, name: str) -> None:
    """Check that the hostile owner has at most the one file that the case permits."""
    bodies = [*REPAIRED.get(case.section, ()), *([] if case.stored is None else [case.stored])]
    allowed = {digest(body) for body in fill(bodies, site.values(name))}
    proved = [row for row in new if row["state"] == "ready"]
    assert len(new) <= 1
    assert {row["filename"] for row in new} <= {name}
    assert {row["hash"].hex() for row in proved} <= allowed
    assert len(proved) == len(new) or case.segments[0].startswith(b"PUT ")


def check_honest(behind: Behind) -> None:
    """Check that each request gets its own response, and that the file is what its owner sent."""
    mark, body = secrets.token_hex(8), secrets.token_bytes(100)
    about: Any = {"params": {"filename": mark}, "headers": {"X-Request-Id": mark}}
    stored = behind.honest.post("/files/upload", content=body, **about)
    listed = behind.honest.get("/files", **about)
    assert (stored.status_code, listed.status_code) == (201, 200), (stored.text, listed.text)
    assert (stored.headers["x-request-id"], listed.headers["x-request-id"]) == (mark, mark)
    file = stored.json()
    assert (file["filename"], file["hash"]) == (mark, digest(body))
    assert listed.json()["files"] == [file]
