"""The doctor's CORS checks: each origin is tested with the preflight request that a browser sends.

An origin that the store does not allow is found.
"""

import http.client
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from service.embedded import Webhook, start_store
from service.operations.bootstrap import bootstrap
from service.operations.doctor.anonymous_requests import Answer
from service.operations.doctor.cors import allows, check_cors, find_refusal
from service.resources import Resources
from service.settings import BaseUrl, Origin, Settings, Url, read_origin
from tests.support.examining import changed, examine_all, failures, statuses
from tests.support.invariants import list_bucket
from tests.support.proxies import faulty_proxy
from tests.support.running import make_settings
from tests.support.servers import (
    RunningStore,
    free_port,
    genuine_minio,
    reachable_folder,
    store_kinds,
)
from tests.support.stores import StoreUnderTest, new_deployment, under_test

pytestmark = [pytest.mark.anyio, pytest.mark.own_deployment]

NAMED, OTHER, OWN = (
    Origin("https://app.example.com"),
    Origin("https://other.example.com"),
    "https://files.example.com",
)
needs_minio = pytest.mark.skipif(
    "minio" not in store_kinds(), reason="the embedded store allows every origin"
)


@pytest.fixture(scope="module")
def strict_store() -> Iterator[StoreUnderTest]:
    """Start a genuine MinIO that allows two origins."""
    webhook = Webhook(endpoint=f"http://127.0.0.1:{free_port()}/webhooks/minio", token="token")
    with (
        reachable_folder() as folder,
        start_store(
            folder / "data",
            binary=genuine_minio(),
            webhooks={"ASSAY": webhook},
            environment={"MINIO_API_CORS_ALLOW_ORIGIN": f"{NAMED},{OWN}"},
        ) as store,
    ):
        running = RunningStore(
            store.endpoint, store.root_access_key, store.root_secret_key, "minio", store.pid
        )
        yield under_test(running, webhook)


@pytest.fixture
def strict(strict_store: StoreUnderTest, database_url: str) -> Settings:
    deployment = new_deployment(strict_store)
    bootstrap(deployment)
    return make_settings(deployment, strict_store, database_url)


async def look(
    settings: Settings, *origins: Origin, public_url: str | None = None, endpoint: str | None = None
) -> dict[str, str]:
    """Return the statuses of the CORS checks by name, and assert that no probe is left."""
    other = {
        "cors_origins": origins,
        "public_url": public_url and BaseUrl(public_url),
        "s3_public_endpoint": endpoint and Url(endpoint),
    }
    async with changed(settings, **other) as resources:
        found = statuses(await check_cors(resources))
        assert await list_bucket(resources.incoming) == set()
    return found


@needs_minio
async def test_each_origin_is_tested_by_name(strict: Settings) -> None:
    found = await look(strict, NAMED, OTHER, public_url=f"{OWN}/assay")
    assert found == {f"CORS: {NAMED}": "ok", f"CORS: {OTHER}": "failed", f"CORS: {OWN}": "ok"}


@needs_minio
async def test_assays_own_page_that_may_not_upload_is_a_warning(strict: Settings) -> None:
    assert await look(strict, public_url="https://elsewhere.example.com") == {
        "CORS: https://elsewhere.example.com": "warning"
    }


@needs_minio
async def test_the_doctor_names_the_variable_to_set(
    strict: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.operations.doctor.events.EVENT_SECONDS", 0.0)
    async with changed(strict, cors_origins=(OTHER,)) as resources:
        found = await examine_all(resources)
    assert failures(found) == {f"CORS: {OTHER}"}
    assert "MINIO_API_CORS_ALLOW_ORIGIN" in found[f"CORS: {OTHER}"].advice


@needs_minio
async def test_the_endpoint_that_clients_use_is_tested(
    strict: Settings, strict_store: StoreUnderTest
) -> None:
    with faulty_proxy(strict_store.address) as proxy:
        found = await look(strict, NAMED, OTHER, endpoint=proxy.endpoint)
        asked = bytes(proxy.requests)
    assert found == {f"CORS: {NAMED}": "ok", f"CORS: {OTHER}": "failed"}
    assert asked.count(b"OPTIONS /") == 2
    assert (
        b"Access-Control-Request-Method: PUT\r\n"
        b"Access-Control-Request-Headers: content-type,if-none-match\r\n"
    ) in asked


async def test_a_store_that_allows_every_origin_passes(settings: Settings) -> None:
    assert await look(settings, NAMED, public_url=OWN) == {
        f"CORS: {NAMED}": "ok",
        f"CORS: {OWN}": "ok",
    }


async def test_the_check_is_skipped_if_no_origin_is_known(
    resources: Resources,
) -> None:
    (finding,) = await check_cors(resources)
    assert (finding.name, finding.status, finding.advice) == ("CORS", "skipped", "")


@pytest.mark.parametrize(
    ("endpoint", "status"),
    [
        ("http://192.0.2.7:9000", "warning"),
        ("https://storage.example.invalid", "warning"),
        ("http://localhost:9000", "skipped"),
        ("http://127.0.0.1:9000", "skipped"),
        ("http://[::1]:9000", "skipped"),
    ],
)
async def test_a_public_endpoint_without_a_public_url_serves_no_page(
    settings: Settings, endpoint: str, status: str
) -> None:
    async with changed(settings, s3_public_endpoint=Url(endpoint)) as resources:
        (finding,) = await check_cors(resources)
    assert (finding.name, finding.status) == ("CORS", status)
    assert ("ASSAY_PUBLIC_URL" in finding.advice) == (status == "warning")


async def test_a_page_at_the_stores_own_origin_needs_no_permission(settings: Settings) -> None:
    """Serve the page and the store at one origin, as nginx.conf does.

    Nothing listens at that address, so any request would fail.
    """
    origin = f"http://127.0.0.1:{free_port()}"
    assert await look(settings, public_url=origin, endpoint=origin) == {f"CORS: {origin}": "ok"}


async def test_an_endpoint_that_does_not_answer_is_only_a_warning(settings: Settings) -> None:
    assert await look(settings, NAMED, endpoint=f"http://127.0.0.1:{free_port()}") == {
        f"CORS: {NAMED}": "warning"
    }


# Proxies that answer for the store


@contextmanager
def proxy_with(
    store: StoreUnderTest, asked: Mapping[str, str], sent: Mapping[str, str], *, status: int = 204
) -> Iterator[str]:
    """Run a proxy that answers OPTIONS itself and passes PUT on, and yield its URL.

    It answers OPTIONS with `status` and the headers in `asked`. Its response to PUT has the store's
    status, but the headers in `sent`.
    """

    class Passing(BaseHTTPRequestHandler):
        def do_OPTIONS(self) -> None:
            self.answer(status, asked)

        def do_PUT(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            connection = http.client.HTTPConnection(*store.address, timeout=10)
            connection.request("PUT", self.path, body, dict(self.headers))
            self.answer(connection.getresponse().status, sent)
            connection.close()

        def answer(self, status: int, headers: Mapping[str, str]) -> None:
            self.send_response(status)
            for name, value in {"Content-Length": "0", **headers}.items():
                self.send_header(name, value)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Passing)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


LEAVE = {
    "Access-Control-Allow-Origin": NAMED,
    "Access-Control-Allow-Methods": "GET, PUT",
    "Access-Control-Allow-Headers": "Content-Type, If-None-Match",
}
TO_PAGE = {"Access-Control-Allow-Origin": NAMED}


@pytest.mark.parametrize(
    ("asked", "sent", "status", "found"),
    [
        (LEAVE, TO_PAGE, 204, "ok"),
        (LEAVE, {"Access-Control-Allow-Origin": "*"}, 204, "ok"),
        (LEAVE, {}, 204, "failed"),
        (LEAVE, {"Access-Control-Allow-Origin": f"{NAMED}, {NAMED}"}, 204, "failed"),
        ({}, TO_PAGE, 204, "failed"),
        (LEAVE, TO_PAGE, 405, "failed"),
        (LEAVE, TO_PAGE, 301, "failed"),
    ],
)
async def test_the_responses_to_the_preflight_and_to_the_put_are_checked(
    settings: Settings,
    store: StoreUnderTest,
    asked: Mapping[str, str],
    sent: Mapping[str, str],
    status: int,
    found: str,
) -> None:
    with proxy_with(store, asked, sent, status=status) as endpoint:
        assert await look(settings, NAMED, endpoint=endpoint) == {f"CORS: {NAMED}": found}


# Reading a response's headers


@pytest.mark.parametrize(
    ("changes", "refusal"),
    [
        ({}, ""),
        (
            {
                "access-control-allow-origin": "*",
                "access-control-allow-methods": "*",
                "access-control-allow-headers": "*",
            },
            "",
        ),
        ({"access-control-allow-origin": OTHER}, "which does not allow this origin"),
        # The store and a proxy have both set the header.
        (
            {"access-control-allow-origin": f"{NAMED}, {NAMED}"},
            "which does not allow this origin",
        ),
        ({"access-control-allow-methods": "GET, POST"}, "which does not allow PUT"),
        ({"access-control-allow-headers": "content-type"}, "which does not allow if-none-match"),
        ({"access-control-allow-headers": ""}, "which does not allow content-type, if-none-match"),
    ],
)
def test_the_missing_permission_is_named(changes: dict[str, str], refusal: str) -> None:
    leave = {name.lower(): value for name, value in LEAVE.items()}
    assert find_refusal(Answer(200, leave | changes), NAMED) == refusal


def test_a_header_name_with_the_same_prefix_gives_no_permission() -> None:
    assert not allows(
        Answer(200, {"access-control-allow-headers": "content-type-options"}),
        "access-control-allow-headers",
        "content-type",
    )


@pytest.mark.parametrize(
    ("url", "origin"),
    [
        ("https://files.example.com/assay", "https://files.example.com"),
        ("https://FILES.example.com:443", "https://files.example.com"),
        ("http://127.0.0.1:8000/", "http://127.0.0.1:8000"),
        ("http://[::1]:80", "http://[::1]"),
    ],
)
def test_an_origin_is_written_as_a_browser_sends_it(url: str, origin: str) -> None:
    assert read_origin(url) == origin
