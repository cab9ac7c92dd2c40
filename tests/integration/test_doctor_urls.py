"""The doctor over upload URLs: the one that works, the clients' endpoint, and what each store enforces."""

import hashlib
import http.client
from collections.abc import Mapping
from urllib.parse import parse_qs, urlsplit

import pytest

from service.doctor import Check, Finding, events, run_check
from service.doctor.enforcement import PROMISES, check_enforcement, check_promise, check_snowball
from service.doctor.store import check_public_endpoint, check_upload_url
from service.resources import Resources
from service.settings import Settings, Url
from tests.examining import answering, changed, examine_all, failures, statuses, with_urls_to
from tests.invariants import list_bucket
from tests.proxies import faulty_proxy
from tests.servers import free_port
from tests.stores import StoreUnderTest

pytestmark = pytest.mark.anyio

WARNINGS = {
    "minio": {"URL: streaming", "URL: signature"},
    "embedded": {"URL: if-none-match", "URL: snowball"},
}
"""What each store lets through (storage-facts.md, "Presigned URLs")."""


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody takes events here."""
    monkeypatch.setattr(events, "EVENT_SECONDS", 0.0)


async def test_what_each_store_enforces(resources: Resources, store: StoreUnderTest) -> None:
    found = statuses(await check_enforcement(resources))
    warned = {name for name, status in found.items() if status == "warning"}
    if store.kind in WARNINGS:
        assert warned == WARNINGS[store.kind]
    assert "failed" not in found.values()


@pytest.mark.parametrize("status", [200, 403, 503])
async def test_a_clients_way_that_takes_no_upload_makes_up_for_nothing(settings: Settings, store: StoreUnderTest, status: int) -> None:
    """Whatever it refuses: an honest upload ends alike, or comes to nothing."""
    if store.kind not in WARNINGS:
        pytest.skip("what this store lets through is not known")
    with answering(status) as endpoint:
        async with changed(settings, s3_public_endpoint=Url(endpoint)) as resources:
            found = statuses(await check_enforcement(resources))
    assert {name for name, status in found.items() if status == "warning"} == WARNINGS[store.kind]


async def test_a_clients_way_that_changes_nothing_makes_up_for_nothing(settings: Settings, store: StoreUnderTest) -> None:
    if store.kind not in WARNINGS:
        pytest.skip("what this store lets through is not known")
    with faulty_proxy(store.address) as proxy:
        async with changed(settings, s3_public_endpoint=Url(proxy.endpoint)) as resources:
            found = statuses(await check_enforcement(resources))
            assert await list_bucket(resources.incoming) == set()
    assert {name for name, status in found.items() if status == "warning"} == WARNINGS[store.kind]


async def test_a_store_that_cannot_answer_has_kept_no_promise(resources: Resources) -> None:
    for status in (302, 503):
        with answering(status) as endpoint:
            elsewhere = with_urls_to(resources, endpoint)
            found = [(await run_check(elsewhere, promise.name, check=alone(promise.name)))[0] for promise in PROMISES]
            found += [await check_snowball(elsewhere), *await check_upload_url(elsewhere)]
        assert {finding.status for finding in found} == {"failed"}


def alone(name: str) -> Check:
    (promise,) = [promise for promise in PROMISES if promise.name == name]

    async def check(resources: Resources) -> list[Finding]:
        return [await check_promise(resources, promise)]

    return check


async def test_a_first_put_that_is_refused_says_nothing_of_a_second(resources: Resources) -> None:
    with answering(403) as endpoint:
        (found,) = await run_check(with_urls_to(resources, endpoint), "x", check=alone("URL: if-none-match"))
    assert found.status == "failed"


async def test_a_store_that_looks_at_digests_alone_ignores_the_length(resources: Resources) -> None:
    def judge(_method: str, path: str, _headers: Mapping[str, str], body: bytes) -> int:
        declared = parse_qs(urlsplit(path).query).get("X-Amz-Content-Sha256")
        return 200 if declared in (None, [hashlib.sha256(body).hexdigest()]) else 400

    with answering(judge) as endpoint:
        found = statuses([*await alone("URL: length")(with_urls_to(resources, endpoint))])
    assert found == {"URL: length": "failed"}


async def test_an_upload_that_is_refused_is_found(resources: Resources) -> None:
    with answering(403) as endpoint:
        (finding,) = await check_upload_url(with_urls_to(resources, endpoint))
    assert finding.status == "failed"
    assert "403" in finding.what


def pass_on(store: StoreUnderTest, method: str, path: str, *, headers: Mapping[str, str], body: bytes) -> int:
    """The store's status; Host is the store's own."""
    connection = http.client.HTTPConnection(*store.address, timeout=10)
    try:
        kept = {name: value for name, value in headers.items() if name.lower() not in ("host", "content-length")}
        connection.request(method, path, body, kept)
        return connection.getresponse().status
    finally:
        connection.close()


async def test_a_public_endpoint_that_does_not_answer_here_is_only_a_warning(settings: Settings) -> None:
    async with changed(settings, s3_public_endpoint=Url(f"http://127.0.0.1:{free_port()}")) as resources:
        found = await examine_all(resources)
    assert failures(found) == set()
    assert found["public endpoint"].status == "warning"


async def test_another_way_to_the_store_takes_an_upload(settings: Settings, store: StoreUnderTest) -> None:
    with faulty_proxy(store.address) as proxy:
        async with changed(settings, s3_public_endpoint=Url(proxy.endpoint)) as resources:
            assert statuses(await check_public_endpoint(resources)) == {"public endpoint": "ok"}
            assert await list_bucket(resources.incoming) == set()


async def test_a_proxy_that_changes_the_host_is_found(settings: Settings, store: StoreUnderTest) -> None:
    def rewrite(method: str, path: str, headers: Mapping[str, str], body: bytes) -> int:
        return pass_on(store, method, path, headers=headers, body=body)

    with answering(rewrite) as endpoint:
        async with changed(settings, s3_public_endpoint=Url(endpoint)) as resources:
            found = await examine_all(resources)
    assert failures(found) == {"public endpoint"}
    assert "403" in found["public endpoint"].what
    assert "Host" in found["public endpoint"].advice


async def test_a_public_endpoint_that_is_something_else_is_found(settings: Settings) -> None:
    """The API itself, say, a web server that likes everything, or a proxy whose server is away."""
    for status in (404, 200, 502):
        with answering(status) as endpoint:
            async with changed(settings, s3_public_endpoint=Url(endpoint)) as resources:
                (finding,) = await check_public_endpoint(resources)
        assert finding.status == "failed"
        assert str(status) in finding.what
