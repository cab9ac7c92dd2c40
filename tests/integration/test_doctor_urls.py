"""The doctor's checks of upload URLs, of the public endpoint, and of what the store enforces."""

import hashlib
import http.client
from collections.abc import Mapping
from urllib.parse import parse_qs, urlsplit

import pytest

from service.object_store.administration import Administration
from service.operations.doctor import Check, Finding, events, run_check
from service.operations.doctor.absent_headers import check_binding
from service.operations.doctor.identities import check_service_identity, check_service_rights
from service.operations.doctor.store import check_public_endpoint, check_upload_url
from service.operations.doctor.unsigned_headers import check_unsigned_headers
from service.operations.doctor.url_conditions import PROMISES, check_enforcement, check_promise
from service.operations.policies import allow
from service.resources import Resources
from service.settings import Deployment, Settings, Url
from tests.integration.steps import BODY, declare, put
from tests.support.examining import (
    answering,
    changed,
    examine_all,
    failures,
    statuses,
    with_urls_to,
)
from tests.support.invariants import list_bucket
from tests.support.proxies import faulty_proxy
from tests.support.servers import free_port
from tests.support.stores import StoreUnderTest

pytestmark = [pytest.mark.anyio, pytest.mark.own_deployment]

WARNINGS = {"minio": {"URL: readable"}, "embedded": {"URL: if-none-match"}}
"""The warnings for each store, with URLs and policies as Assay makes them.

docs/store-facts.md describes the behaviour of the stores.
"""
OPEN_WARNINGS = {
    "minio": {
        "URL: readable",
        "URL: snowball",
        "URL: ETag and date",
        "URL: attributes",
        "URL: absent headers",
    },
    "embedded": {"URL: if-none-match", "URL: snowball", "URL: attributes", "URL: absent headers"},
}
"""The warnings for each store, with URLs that forbid no header."""


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """Do not wait for events, because no webhook receives them here."""
    monkeypatch.setattr(events, "EVENT_SECONDS", 0.0)


async def check_all_urls(resources: Resources) -> list[Finding]:
    return [
        *await check_binding(resources),
        *await check_enforcement(resources),
        *await check_unsigned_headers(resources),
    ]


def warned(findings: list[Finding]) -> set[str]:
    return {finding.name for finding in findings if finding.status == "warning"}


@pytest.mark.parametrize("binds", [True, False])
async def test_each_store_has_exactly_the_warnings_that_are_expected(
    settings: Settings, store: StoreUnderTest, binds: bool
) -> None:
    async with changed(settings, s3_bind_absent_headers=binds) as resources:
        found = await check_all_urls(resources)
        assert await list_bucket(resources.incoming) == set()
    expected = WARNINGS if binds else OPEN_WARNINGS
    if store.kind in expected:
        assert warned(found) == expected[store.kind]
    assert "failed" not in statuses(found).values()
    if store.kind == "minio":
        (readable,) = [finding.what for finding in found if finding.name == "URL: readable"]
        assert [
            name in readable
            for name in (
                "sealed-key: set",
                "seal-algorithm: set",
                "iv: set",
                "encrypted-multipart: set",
            )
        ] == [True] * 4


async def test_policies_that_do_not_refuse_unsigned_bodies_are_found(
    resources: Resources, store: StoreUnderTest, deployment: Deployment
) -> None:
    """Find CVE-2026-41145 in a deployment that an older `assay bootstrap` has prepared."""
    if store.kind not in WARNINGS:
        pytest.skip("the behaviour of this store is not known")
    root = (deployment.s3_root_access_key, deployment.s3_root_secret_key)
    administration = Administration(
        deployment.s3_endpoint, access_key=root[0], secret_key=root[1], region=deployment.s3_region
    )
    administration.put_policy(
        deployment.signer_policy_name, allow(("s3:PutObject",), [f"{deployment.incoming_bucket}/*"])
    )
    administration.close()
    expected = {"URL: streaming", "URL: signature"} if store.kind == "minio" else set()

    async def took_effect() -> bool:
        return expected <= warned(await check_enforcement(resources))

    assert await events.wait_for(took_effect, seconds=20)
    found = [finding for finding in await check_enforcement(resources) if finding.name in expected]
    assert all("assay bootstrap" in finding.advice for finding in found)


def is_signed_by_headers_alone(path: str, headers: Mapping[str, str]) -> bool:
    """Return whether the request has every signed header, as stores other than MinIO require."""
    (names,) = parse_qs(urlsplit(path).query)["X-Amz-SignedHeaders"]
    return set(names.split(";")) <= {name.lower() for name in headers}


async def test_the_binding_must_be_off_if_a_store_requires_signed_headers(
    settings: Settings, store: StoreUnderTest
) -> None:
    def judge(method: str, path: str, headers: Mapping[str, str], body: bytes) -> int:
        if not is_signed_by_headers_alone(path, headers):
            return 403
        return pass_on(store, method, path, headers=headers, body=body, keep_host=True)

    with answering(judge) as endpoint:
        async with changed(settings) as resources:
            on = await check_upload_url(with_urls_to(resources, endpoint))
        async with changed(settings, s3_bind_absent_headers=False) as resources:
            elsewhere = with_urls_to(resources, endpoint)
            off = [*await check_upload_url(elsewhere), *await check_binding(elsewhere)]
    assert statuses(on) == {"upload URL": "failed"}
    assert on[0].advice.startswith("set ASSAY_S3_BIND_ABSENT_HEADERS=no")
    assert statuses(off) == {"upload URL": "ok", "URL: absent headers": "ok"}


async def test_a_binding_that_is_off_although_the_store_honours_it_is_found(
    settings: Settings,
) -> None:
    async with changed(settings, s3_bind_absent_headers=False) as resources:
        (finding,) = await check_binding(resources)
    assert (finding.status, finding.advice) == ("warning", "set ASSAY_S3_BIND_ABSENT_HEADERS=yes")


async def test_a_proxy_that_refuses_the_bindings_parameters_is_found(
    settings: Settings, store: StoreUnderTest
) -> None:
    def judge(method: str, path: str, headers: Mapping[str, str], body: bytes) -> int:
        if "x-minio-source-etag=" in path:
            return 403
        return pass_on(store, method, path, headers=headers, body=body, keep_host=True)

    with answering(judge) as endpoint:
        async with changed(settings, s3_public_endpoint=Url(endpoint)) as resources:
            (finding,) = await check_public_endpoint(resources)
    assert finding.status == "failed"
    assert "docs/deploy/nginx.conf" in finding.advice


async def test_without_the_binding_the_doctor_finds_the_form_that_extracts_a_tar(
    settings: Settings, store: StoreUnderTest
) -> None:
    """Send the header in several forms.

    MinIO refuses a single header, but extracts the archive if the header is sent twice, once empty
    and once set.
    """
    if store.kind not in WARNINGS:
        pytest.skip("the behaviour of this store is not known")
    async with changed(settings, s3_bind_absent_headers=False) as resources:
        found = {finding.name: finding for finding in await check_unsigned_headers(resources)}
        assert await list_bucket(resources.incoming) == set()
    assert found["URL: snowball"].status == "warning"
    forms = (
        "empty and set"
        if store.kind == "minio"
        else "set, empty and set, set twice, neutral and set"
    )
    assert f"x-amz-meta-snowball-auto-extract: {forms})" in found["URL: snowball"].what


@pytest.mark.parametrize("status", [200, 403, 503])
async def test_a_public_endpoint_that_accepts_no_upload_hides_no_warning(
    settings: Settings, store: StoreUnderTest, status: int
) -> None:
    """Keep every warning, because honest uploads fail at this endpoint as well."""
    if store.kind not in WARNINGS:
        pytest.skip("the behaviour of this store is not known")
    with answering(status) as endpoint:
        async with changed(
            settings, s3_public_endpoint=Url(endpoint), s3_bind_absent_headers=False
        ) as resources:
            found = await check_all_urls(resources)
    assert warned(found) == OPEN_WARNINGS[store.kind]


async def test_a_transparent_proxy_hides_no_warning(
    settings: Settings, store: StoreUnderTest
) -> None:
    if store.kind not in WARNINGS:
        pytest.skip("the behaviour of this store is not known")
    with faulty_proxy(store.address) as proxy:
        async with changed(
            settings, s3_public_endpoint=Url(proxy.endpoint), s3_bind_absent_headers=False
        ) as resources:
            found = await check_all_urls(resources)
            assert await list_bucket(resources.incoming) == set()
    assert warned(found) == OPEN_WARNINGS[store.kind]


async def test_a_store_that_fails_to_answer_passes_no_check(resources: Resources) -> None:
    for status in (302, 503):
        with answering(status) as endpoint:
            elsewhere = with_urls_to(resources, endpoint)
            found = [
                (await run_check(elsewhere, promise.name, check=alone(promise.name)))[0]
                for promise in PROMISES
            ]
            found += [*await check_unsigned_headers(elsewhere), *await check_upload_url(elsewhere)]
        assert {finding.status for finding in found} == {"failed"}


def alone(name: str) -> Check:
    (promise,) = [promise for promise in PROMISES if promise.name == name]

    async def check(resources: Resources) -> list[Finding]:
        return [await check_promise(resources, promise)]

    return check


async def test_a_refused_first_put_proves_nothing_about_a_second(resources: Resources) -> None:
    with answering(403) as endpoint:
        (found,) = await run_check(
            with_urls_to(resources, endpoint), "x", check=alone("URL: if-none-match")
        )
    assert found.status == "failed"


async def test_a_store_that_checks_only_digests_fails_the_length_check(
    resources: Resources,
) -> None:
    def judge(_method: str, path: str, _headers: Mapping[str, str], body: bytes) -> int:
        declared = parse_qs(urlsplit(path).query).get("X-Amz-Content-Sha256")
        return 200 if declared in (None, [hashlib.sha256(body).hexdigest()]) else 400

    with answering(judge) as endpoint:
        found = statuses([*await alone("URL: length")(with_urls_to(resources, endpoint))])
    assert found == {"URL: length": "failed"}


async def test_a_refused_upload_is_found(resources: Resources) -> None:
    with answering(403) as endpoint:
        (finding,) = await check_upload_url(with_urls_to(resources, endpoint))
    assert finding.status == "failed"
    assert "403" in finding.what


def pass_on(
    store: StoreUnderTest,
    method: str,
    path: str,
    *,
    headers: Mapping[str, str],
    body: bytes,
    keep_host: bool = False,
) -> int:
    """Send the request to the store and return the status.

    The Host header is the store's own unless `keep_host` is True.
    """
    connection = http.client.HTTPConnection(*store.address, timeout=10)
    try:
        left_out = ("content-length",) if keep_host else ("host", "content-length")
        kept = {name: value for name, value in headers.items() if name.lower() not in left_out}
        connection.request(method, path, body, kept)
        return connection.getresponse().status
    finally:
        connection.close()


async def test_a_public_endpoint_that_does_not_answer_is_only_a_warning(
    settings: Settings,
) -> None:
    async with changed(
        settings, s3_public_endpoint=Url(f"http://127.0.0.1:{free_port()}")
    ) as resources:
        found = await examine_all(resources)
    assert failures(found) == set()
    assert found["public endpoint"].status == "warning"


async def test_a_public_endpoint_behind_a_proxy_accepts_an_upload(
    settings: Settings, store: StoreUnderTest
) -> None:
    with faulty_proxy(store.address) as proxy:
        async with changed(settings, s3_public_endpoint=Url(proxy.endpoint)) as resources:
            assert statuses(await check_public_endpoint(resources)) == {"public endpoint": "ok"}
            assert await list_bucket(resources.incoming) == set()


async def test_a_proxy_that_changes_the_host_is_found(
    settings: Settings, store: StoreUnderTest
) -> None:
    def rewrite(method: str, path: str, headers: Mapping[str, str], body: bytes) -> int:
        return pass_on(store, method, path, headers=headers, body=body)

    with answering(rewrite) as endpoint:
        async with changed(settings, s3_public_endpoint=Url(endpoint)) as resources:
            found = await examine_all(resources)
    assert failures(found) == {"public endpoint"}
    assert "403" in found["public endpoint"].what
    assert "Host" in found["public endpoint"].advice


async def test_a_public_endpoint_that_is_not_the_store_is_found(settings: Settings) -> None:
    """Find an endpoint that is not the store.

    The statuses are those of the API, of a server that accepts every request, and of a proxy whose
    upstream is unavailable.
    """
    for status in (404, 200, 502):
        with answering(status) as endpoint:
            async with changed(settings, s3_public_endpoint=Url(endpoint)) as resources:
                (finding,) = await check_public_endpoint(resources)
        assert finding.status == "failed"
        assert str(status) in finding.what


async def test_the_service_identity_is_checked_despite_an_unreadable_object(
    resources: Resources,
) -> None:
    """Check the identity although an archived MinIO answers every listing with an error.

    The cause is an unreadable object in the bucket.
    """
    declared = await declare(resources)
    await put(declared, BODY, {"x-minio-replication-server-side-encryption-iv": "QUFB"})
    findings = [*await check_service_identity(resources), *await check_service_rights(resources)]
    assert {finding.status for finding in findings} == {"ok"}, findings
