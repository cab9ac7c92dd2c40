"""A store that is unavailable, does not answer, truncates its responses or sends invalid ones.

The tests also check which requests are sent, and how often.
"""

import secrets
import shutil
import ssl
import subprocess
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from service import clock
from service.object_store import Bucket, RequestRefused, SentTooLate, StoreUnavailable
from service.object_store.bucket import QUICK_SECONDS
from service.settings import Deployment
from tests.support.objects import MIB, copy, put_object, read_all, read_into
from tests.support.proxies import FaultyProxy, faulty_proxy, stub_store
from tests.support.servers import free_port
from tests.support.stores import StoreUnderTest, open_store

pytestmark = pytest.mark.anyio


@pytest.fixture
def proxy(store: StoreUnderTest) -> Iterator[FaultyProxy]:
    with faulty_proxy(store.address) as running:
        yield running


@pytest.fixture
async def through_proxy(proxy: FaultyProxy, deployment: Deployment) -> AsyncIterator[Bucket]:
    """Yield the vault, as it is reached through the proxy."""
    with open_store(
        proxy.endpoint, deployment.s3_access_key, secret_key=deployment.s3_secret_key
    ) as opened:
        yield opened.bucket(deployment.vault_bucket)


async def test_a_store_that_refuses_connections_is_unavailable_at_once() -> None:
    with open_store(f"http://127.0.0.1:{free_port()}", "key", secret_key="secret") as nowhere:
        with pytest.raises(StoreUnavailable):
            await nowhere.check_health()
        with pytest.raises(StoreUnavailable):
            await nowhere.bucket("vault").head("k")


async def test_a_connection_is_reused_after_a_complete_read(
    through_proxy: Bucket, proxy: FaultyProxy
) -> None:
    put_object(through_proxy, "k", b"some bytes")
    for _ in range(3):
        assert read_all(through_proxy, "k") == b"some bytes"
    assert proxy.connections == 1


async def test_a_copy_is_never_sent_after_its_deadline(
    incoming: Bucket, through_proxy: Bucket, proxy: FaultyProxy
) -> None:
    etag = put_object(incoming, "k", b"bytes")
    with pytest.raises(SentTooLate):
        await copy(incoming, through_proxy, etag, send_before=clock.read_seconds())
    assert proxy.requests == b""


async def test_a_copy_sends_one_request_and_no_other(
    incoming: Bucket, through_proxy: Bucket, proxy: FaultyProxy
) -> None:
    await copy(incoming, through_proxy, put_object(incoming, "k", b"bytes"))
    assert proxy.requests.count(b" HTTP/1.1\r\n") == 1
    assert proxy.requests.startswith(b"PUT ")


async def test_a_copy_without_a_response_is_not_sent_again(
    incoming: Bucket, through_proxy: Bucket, proxy: FaultyProxy
) -> None:
    etag = put_object(incoming, "k", b"bytes")
    proxy.silent = True
    started = time.monotonic()
    with pytest.raises(StoreUnavailable):
        await copy(incoming, through_proxy, etag, timeout_seconds=2)
    assert time.monotonic() - started < QUICK_SECONDS
    assert proxy.requests.count(b"PUT ") == 1


async def test_a_silent_store_is_unavailable_after_the_timeout_of_the_call(
    through_proxy: Bucket, proxy: FaultyProxy
) -> None:
    proxy.silent = True
    started = time.monotonic()
    with pytest.raises(StoreUnavailable):
        await through_proxy.head("k", timeout_seconds=2)
    with pytest.raises(StoreUnavailable):
        through_proxy.open("k", etag=None, timeout_seconds=2)
    assert time.monotonic() - started < QUICK_SECONDS


async def test_a_truncated_read_never_looks_complete(
    vault: Bucket, through_proxy: Bucket, proxy: FaultyProxy
) -> None:
    body = secrets.token_bytes(2 * MIB)
    put_object(vault, "k", body)
    proxy.cut_answers_after = MIB
    received = bytearray()
    with through_proxy.open("k", etag=None) as reader, pytest.raises(StoreUnavailable):
        read_into(received, reader)
    assert 0 < len(received) < len(body)
    assert body.startswith(received)


async def test_a_put_with_a_truncated_response_is_not_repeated(
    through_proxy: Bucket, proxy: FaultyProxy
) -> None:
    proxy.cut_answers_after = 5
    with pytest.raises(StoreUnavailable):
        put_object(through_proxy, "k", b"bytes")
    assert proxy.requests.count(b"PUT ") == 1


async def test_a_head_request_is_repeated_once_after_a_closed_connection(
    vault: Bucket, through_proxy: Bucket, proxy: FaultyProxy
) -> None:
    put_object(vault, "k", b"bytes")
    proxy.cut_answers_after = 5
    with pytest.raises(StoreUnavailable):
        await through_proxy.head("k")
    assert proxy.requests.count(b"HEAD ") == 2


async def test_no_error_names_a_query_or_a_key_id(
    deployment: Deployment, through_proxy: Bucket, proxy: FaultyProxy
) -> None:
    proxy.silent = True
    with pytest.raises(StoreUnavailable) as silent:
        await through_proxy.list_parts("k", "upload-1", timeout_seconds=0.2)
    with (
        open_store(deployment.s3_endpoint, "nobody-we-know", secret_key="no-secret") as stranger,
        pytest.raises(StoreUnavailable) as foreign,
    ):
        await stranger.bucket(deployment.vault_bucket).head("k")
    for text in (str(silent.value), str(foreign.value)):
        assert "?" not in text
        assert "upload-1" not in text
        assert "nobody-we-know" not in text
        assert "Signature" not in text


async def test_several_objects_are_deleted_by_one_request(
    through_proxy: Bucket, proxy: FaultyProxy
) -> None:
    for number in range(5):
        put_object(through_proxy, f"k{number}", b"bytes")
    before = proxy.requests.count(b" HTTP/1.1\r\n")
    assert await through_proxy.delete_many([f"k{number}" for number in range(5)] + ["absent"]) == []
    assert proxy.requests.count(b" HTTP/1.1\r\n") == before + 1
    assert [listed.key async for listed in through_proxy.list_keys()] == []


async def test_deleting_no_objects_sends_no_request(
    through_proxy: Bucket, proxy: FaultyProxy
) -> None:
    assert await through_proxy.delete_many([]) == []
    assert proxy.connections == 0


XML = {"Content-Type": "application/xml"}
FAILED = (
    b"<?xml version='1.0' encoding='UTF-8'?>\n"
    b"  <Error><Code>InternalError</Code><Message>later</Message></Error>"
)
PAGE = b"<html><body>Welcome to the proxy</body>"


async def test_a_copy_answered_with_200_and_an_error_has_failed() -> None:
    with (
        stub_store(200, XML, FAILED) as stub,
        open_store(stub.endpoint, "key", secret_key="secret") as store,
    ):
        with pytest.raises(StoreUnavailable, match="InternalError"):
            await copy(store.bucket("incoming"), store.bucket("vault"), "0" * 32)
        with pytest.raises(StoreUnavailable, match="InternalError"):
            await store.bucket("vault").complete_upload("k", "1", [(1, "0" * 32)])
        assert stub.requests == ["PUT", "POST"]


async def test_a_page_from_a_proxy_is_not_a_response_of_the_store() -> None:
    with (
        stub_store(200, {"Content-Type": "text/html"}, PAGE) as stub,
        open_store(stub.endpoint, "key", secret_key="secret") as store,
    ):
        with pytest.raises(StoreUnavailable):
            await copy(store.bucket("incoming"), store.bucket("vault"), "0" * 32)
        with pytest.raises(StoreUnavailable):
            await store.bucket("vault").head("k")
        with pytest.raises(StoreUnavailable):
            await store.bucket("vault").create_upload(
                "k", content_type="text/plain", metadata={}, tags={}
            )


async def test_a_redirect_is_not_followed() -> None:
    with (
        stub_store(200, {"Content-Length": "0"}) as elsewhere,
        stub_store(
            307, {"Location": f"{elsewhere.endpoint}/vault/k", "Content-Length": "0"}
        ) as stub,
        open_store(stub.endpoint, "key", secret_key="secret") as store,
    ):
        with pytest.raises(StoreUnavailable):
            await store.bucket("vault").head("k")
        assert (stub.requests, elsewhere.requests) == (["HEAD"], [])


@pytest.mark.parametrize(
    "headers", [{}, {"Content-Length": "5"}], ids=["no length", "whole object"]
)
async def test_a_response_that_is_not_the_range_is_not_read(headers: dict[str, str]) -> None:
    with (
        stub_store(200, headers, b"bytes") as stub,
        open_store(stub.endpoint, "key", secret_key="secret") as store,
    ):
        with pytest.raises(StoreUnavailable):
            store.bucket("vault").open("k", etag=None, offset=1, length=2)
        if not headers:
            with pytest.raises(StoreUnavailable):
                store.bucket("vault").open("k", etag=None)


@pytest.mark.parametrize("status", [500, 502, 503, 429])
async def test_a_busy_store_counts_as_unavailable(status: int) -> None:
    with (
        stub_store(status, {"Content-Length": "0"}) as stub,
        open_store(stub.endpoint, "key", secret_key="secret") as store,
    ):
        with pytest.raises(StoreUnavailable):
            await store.check_health()
        with pytest.raises(StoreUnavailable):
            await store.bucket("vault").head("k")


async def test_an_operation_that_the_store_lacks_is_refused() -> None:
    with (
        stub_store(501, {"Content-Length": "0"}) as stub,
        open_store(stub.endpoint, "key", secret_key="secret") as store,
        pytest.raises(RequestRefused),
    ):
        await store.bucket("vault").list_parts("k", "1")


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl makes the certificate")
async def test_a_private_authority_is_trusted_only_if_it_is_configured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    certificate = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    certificate.load_cert_chain(*make_certificate(tmp_path))
    headers = {
        "Content-Length": "5",
        "ETag": '"1"',
        "Last-Modified": "Sun, 22 Nov 2026 18:00:00 GMT",
    }
    with stub_store(200, headers, b"bytes", certificate=certificate) as stub:
        with (
            open_store(stub.endpoint, "key", secret_key="secret") as distrustful,
            pytest.raises(StoreUnavailable),
        ):
            await distrustful.bucket("vault").head("k")
        monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "certificate.pem"))
        with open_store(stub.endpoint, "key", secret_key="secret") as trusting:
            assert (await trusting.bucket("vault").head("k")).size == 5


def make_certificate(folder: Path) -> tuple[Path, Path]:
    certificate, key = folder / "certificate.pem", folder / "key.pem"
    kind = [
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:prime256v1",
        "-nodes",
        "-days",
        "2",
    ]
    name = ["-subj", "/CN=store", "-addext", "subjectAltName=IP:127.0.0.1"]
    subprocess.run(
        ["openssl", "req", *kind, *name, "-keyout", str(key), "-out", str(certificate)],
        check=True,
        capture_output=True,
    )
    return certificate, key
