"""Responses that the store's client refuses: too large, truncated, or not from an S3 store."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from service.object_store import ObjectMissing, ObjectStore, StoreUnavailable
from service.object_store.administration import Administration
from service.object_store.transport import LARGEST_ANSWER_BYTES
from tests.support.proxies import Stub, stub_store
from tests.support.stores import REGION, open_store

pytestmark = [pytest.mark.anyio, pytest.mark.own_deployment]


@contextmanager
def opened(status: int, headers: dict[str, str], body: bytes) -> Iterator[tuple[Stub, ObjectStore]]:
    """Run a stub that gives this response to every request.

    Yield the stub and a store client for it.
    """
    with (
        stub_store(status, headers, body) as stub,
        open_store(stub.endpoint, "key", secret_key="secret") as store,
    ):
        yield stub, store


async def test_a_response_that_is_too_large_is_not_read_to_its_end() -> None:
    with opened(200, {"Content-Length": str(2**40)}, bytes(LARGEST_ANSWER_BYTES + 1)) as (
        stub,
        store,
    ):
        with pytest.raises(StoreUnavailable, match="larger than"):
            await store.bucket("vault").list_parts("k", "1")
        assert stub.requests == ["GET"]


async def test_a_refusal_that_is_too_large_is_recognized_by_its_status() -> None:
    with opened(404, {"Content-Length": str(2**40)}, bytes(LARGEST_ANSWER_BYTES + 1)) as (
        stub,
        store,
    ):
        with pytest.raises(ObjectMissing):
            store.bucket("vault").open("k", etag=None)
        assert stub.requests == ["GET"]


async def test_a_truncated_listing_is_repeated_and_a_completion_is_not() -> None:
    with opened(200, {"Content-Length": "100"}, b"<ListPartsResult>") as (stub, store):
        with pytest.raises(StoreUnavailable):
            await store.bucket("vault").list_parts("k", "1")
        assert stub.requests == ["GET", "GET"]
        with pytest.raises(StoreUnavailable):
            await store.bucket("vault").complete_upload("k", "1", [(1, "e")])
        assert stub.requests == ["GET", "GET", "POST"]


async def test_a_document_type_is_refused() -> None:
    body = (
        b'<!DOCTYPE a [<!ENTITY e "1">]>'
        b"<InitiateMultipartUploadResult><UploadId>&e;</UploadId></InitiateMultipartUploadResult>"
    )
    with opened(200, {"Content-Length": str(len(body))}, body) as (stub, store):
        with pytest.raises(StoreUnavailable, match="cannot be parsed"):
            await store.bucket("vault").create_upload(
                "k", content_type="text/plain", metadata={}, tags={}
            )
        assert stub.requests == ["POST"]


def test_the_administration_maps_errors_like_every_other_request() -> None:
    body = b'{"Code": "XMinioAdminNoSuchUser"}'
    with stub_store(404, {"Content-Length": str(len(body))}, body) as stub:
        administration = Administration(
            stub.endpoint, access_key="key", secret_key="secret", region=REGION
        )
        assert administration.identity("nobody") is None
        with pytest.raises(Exception, match="XMinioAdminNoSuchUser") as raised:
            administration.policy("none")
        assert "secret" not in str(raised.value)
        administration.close()


@pytest.mark.parametrize(
    ("status", "body"), [(200, b"<html>a page</html>"), (200, b"no XML"), (503, b""), (307, b"")]
)
def test_an_unintelligible_response_makes_the_administration_unavailable(
    status: int, body: bytes
) -> None:
    with stub_store(
        status, {"Content-Length": str(len(body)), "Location": "http://127.0.0.1:1/"}, body
    ) as stub:
        administration = Administration(
            stub.endpoint, access_key="key", secret_key="secret", region=REGION
        )
        with pytest.raises(StoreUnavailable):
            administration.bucket_exists("vault")
        assert stub.requests == ["GET"]
        administration.close()
