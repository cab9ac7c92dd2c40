"""Two clients behind an nginx that passes Upgrade on and keeps its connection: one hostile, one honest.

All requests share the one connection that nginx keeps to the API. If the API and nginx see the end of a hostile request in two
places, then the honest client's request becomes a part of the hostile one, or gets another request's answer.
"""

import contextlib
import json
import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from tests.e2e.conftest import Api, Owner
from tests.e2e.hostile_http.cases import FRAMING, Case, fill
from tests.e2e.hostile_http.site import Site, open_site
from tests.e2e.jobs import digest
from tests.e2e.nginx import Servers, find_nginx, running_nginx
from tests.servers import reserved_port
from tests.wire import Answer, Ended, Wire

MENDED = ("RFC 9112 7.1", "RFC 9112 7.1.1", "RFC 9110 6.5.1")
"""nginx takes LF for CRLF around chunks, and drops extensions and trailers."""
REPAIRED = (b"hello", b"hello\r")
"""What nginx makes of a body whose chunks are not well-formed."""
BY_NGINX = b"<center>nginx</center>"


@dataclass(frozen=True)
class Behind:
    """The server of the other tests, reached through nginx; `site.owner` is the hostile one."""

    site: Site
    url: str
    honest: Owner


@pytest.fixture(scope="session")
def behind_websockets(one_api: Api, folder: Path) -> Iterator[Behind]:
    find_nginx()
    places = {"api": one_api.url.removeprefix("http://"), "store": one_api.store.endpoint.removeprefix("http://")}
    hostile, honest = one_api.new_owner(), one_api.new_owner()
    with (
        reserved_port() as port,
        running_nginx(folder / f"nginx-{port}", port, Servers(**places, bucket="none"), websockets=True) as nginx,
        open_site(one_api.url, one_api.settings, owner=hostile.name, key=hostile.key) as site,
    ):
        yield Behind(site, nginx.url, honest)


@pytest.mark.parametrize("case", FRAMING, ids=str)
def test_a_hostile_request_touches_no_other_clients(behind_websockets: Behind, case: Case) -> None:
    """The honest requests come while the hostile connection is open, and again behind it."""
    behind, name = behind_websockets, secrets.token_hex(6)
    site, before = behind.site, behind.site.look()
    with Wire(behind.url) as wire:
        with contextlib.suppress(Ended):
            wire.send(*fill(case.segments, site.values(name)))
            check_hostile(case, wire.read_answer(case.method, version=case.version))
            check_honest(behind)
            check_rest(wire)
    check_honest(behind)
    new = [row for file_id, row in site.look().files.items() if file_id not in before.files]
    allowed = fill([case.stored or b"", *REPAIRED], site.values(name))
    assert [(row["filename"], row["hash"].hex()) for row in new] in ([], *[[(name, digest(body))] for body in allowed])


def check_hostile(case: Case, answer: Answer) -> None:
    """The API's answer is as without nginx. nginx may refuse a request by itself, or repair its chunks."""
    if BY_NGINX in answer.body:
        assert answer.status in (400, 405, 411, 413, 414, 501, 505), answer
    elif case.section not in MENDED:
        assert answer.status in case.statuses, answer


def check_rest(wire: Wire) -> None:
    """No second answer comes."""
    wire.finish_sending()
    wire.check_closed()


def check_honest(behind: Behind) -> None:
    """Each request gets the answer to itself, and the file is what was sent, with the owner that sent it."""
    mark, body = secrets.token_hex(8), secrets.token_bytes(100)
    with httpx.Client(base_url=behind.url, headers={**behind.honest.headers, "X-Request-Id": mark}, timeout=20) as client:
        stored = client.post("/files/upload", params={"filename": mark}, content=body)
        listed = client.get("/files", params={"filename": mark})
    assert (stored.status_code, listed.status_code) == (201, 200), (stored.text, listed.text)
    assert (stored.headers["x-request-id"], listed.headers["x-request-id"]) == (mark, mark)
    file = stored.json()
    assert (file["filename"], file["hash"]) == (mark, digest(body))
    assert json.loads(listed.content)["files"] == [file]
