"""Fixtures for tests over every available store.

They provide the running server, a deployment on it, and the clients that the service would have.
A test that asks for `store` runs once for each kind, whose name ends the test's id. Thus
`pytest -k minio` selects one kind.
"""

import http.client
import json
import os
import secrets
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from xml.etree import ElementTree as ET

import minio
import minio.error
import msgspec
import pytest

from service.embedded import Webhook
from service.object_store import Bucket, ObjectStore
from service.object_store.presign import Signer
from service.operations.bootstrap import bootstrap
from service.settings import BucketName, Deployment, Secret, Url
from tests.support.servers import RunningStore, reserved_port, start_test_store, store_kinds

REGION = "us-east-1"
WEBHOOK_ID = "ASSAY"
"""The webhook target of deployments whose tests take the events themselves."""
DEPLOYMENTS = 4
"""The number of tests after which a deployment is used again.

By then, a late request of the earlier test has ended.
"""
API_WEBHOOK_ID = "API"
"""The webhook target of the deployment that the session's API serves."""


@dataclass(frozen=True)
class StoreUnderTest:
    """A running store and the webhook that it was started with.

    Nothing listens at the webhook's port unless a test does.
    """

    kind: str
    endpoint: str
    root_access_key: str = field(repr=False)
    root_secret_key: str = field(repr=False)
    webhook_port: int
    webhook_token: str = field(repr=False)
    api_port: int = 0
    pid: int | None = None

    @property
    def address(self) -> tuple[str, int]:
        parts = urlsplit(self.endpoint)
        return parts.hostname or "", parts.port or 80


@pytest.fixture(scope="session")
def running_stores(folder: Path) -> Iterator[Callable[[str], StoreUnderTest]]:
    """Return a function that starts a store on its first use and keeps it for the session."""
    found: dict[str, StoreUnderTest] = {}
    with ExitStack() as stack:

        def start(kind: str) -> StoreUnderTest:
            if kind not in found:
                found[kind] = stack.enter_context(
                    running_store(kind, folder / f"store-{kind}-{secrets.token_hex(4)}")
                )
            return found[kind]

        yield start


@contextmanager
def running_store(kind: str, folder: Path) -> Iterator[StoreUnderTest]:
    """Run a store with both webhooks. No other process gets their ports while it runs."""
    with ExitStack() as stack:
        if kind == "external":
            ports = [
                int(os.environ[name]) for name in ("ASSAY_TEST_WEBHOOK_PORT", "ASSAY_TEST_API_PORT")
            ]
            token = os.environ["ASSAY_TEST_WEBHOOK_TOKEN"]
        else:
            ports, token = (
                [stack.enter_context(reserved_port()) for _ in range(2)],
                secrets.token_hex(16),
            )
        webhook, api = [
            Webhook(endpoint=f"http://127.0.0.1:{port}/webhooks/minio", token=token)
            for port in ports
        ]
        server = stack.enter_context(
            start_test_store(kind, folder, {WEBHOOK_ID: webhook, API_WEBHOOK_ID: api})
        )
        yield under_test(server, webhook, api_port=ports[1])


def under_test(server: RunningStore, webhook: Webhook, *, api_port: int = 0) -> StoreUnderTest:
    port = urlsplit(webhook.endpoint).port or 0
    keys = (server.root_access_key, server.root_secret_key)
    return StoreUnderTest(
        server.kind,
        server.endpoint,
        *keys,
        webhook_port=port,
        webhook_token=webhook.token,
        api_port=api_port,
        pid=server.pid,
    )


@pytest.fixture(scope="session")
def store(
    request: pytest.FixtureRequest, running_stores: Callable[[str], StoreUnderTest]
) -> StoreUnderTest:
    return running_stores(request.param)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--every-store",
        action="store_true",
        help="run also the tests that are marked one_store over each kind of store",
    )


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run a test over each kind of store, or over the first one if it is marked `one_store`.

    With the option `--every-store`, the mark has no effect.
    """
    if "store" in metafunc.fixturenames and not has_own_stores(metafunc):
        kinds = store_kinds()
        marked = metafunc.definition.get_closest_marker("one_store") is not None
        one = marked and not metafunc.config.getoption("every_store")
        metafunc.parametrize("store", kinds[:1] if one else kinds, indirect=True, scope="session")


def has_own_stores(metafunc: pytest.Metafunc) -> bool:
    """Return whether the test names the values of `store` with its own mark."""
    return any(
        "store" in str(mark.args[0]).replace(" ", "").split(",")
        for mark in metafunc.definition.iter_markers("parametrize")
    )


@pytest.fixture
def fresh_deployment(store: StoreUnderTest) -> Deployment:
    """Return a deployment with new names and keys, none of which exist in the store yet."""
    return new_deployment(store)


def new_deployment(
    store: StoreUnderTest, *, webhook_id: str = WEBHOOK_ID, reader: bool = False
) -> Deployment:
    """Return a deployment with new names. With `reader`, it has the identity for nginx."""
    name = secrets.token_hex(4)
    return Deployment(
        s3_endpoint=Url(store.endpoint),
        s3_region=REGION,
        s3_root_access_key=Secret(store.root_access_key),
        s3_root_secret_key=Secret(store.root_secret_key),
        s3_access_key=Secret(f"service-{name}"),
        s3_secret_key=Secret(secrets.token_hex(16)),
        s3_signer_access_key=Secret(f"signer-{name}"),
        s3_signer_secret_key=Secret(secrets.token_hex(16)),
        s3_reader_access_key=Secret(f"reader-{name}") if reader else None,
        s3_reader_secret_key=Secret(secrets.token_hex(16)) if reader else None,
        incoming_bucket=BucketName(f"incoming-{name}"),
        vault_bucket=BucketName(f"vault-{name}"),
        webhook_id=webhook_id,
    )


@pytest.fixture(scope="session")
def known_identities() -> dict[str, dict[str, str]]:
    """Return the keys of identities that a store already has, by its endpoint.

    Making an identity is slow, because both sides derive a key from root's secret.
    """
    return {}


@pytest.fixture(scope="session")
def used_deployments() -> dict[str, list[Deployment]]:
    """Return the deployments that wait for their next test, by the endpoint of their store."""
    return {}


@pytest.fixture
def deployment(
    request: pytest.FixtureRequest,
    fresh_deployment: Deployment,
    known_identities: dict[str, dict[str, str]],
    used_deployments: dict[str, list[Deployment]],
) -> Iterator[Deployment]:
    """Yield two empty buckets, and identities that have rights to these and to no others.

    A test that is marked `own_deployment` gets new buckets, because it changes more than objects.
    The others use one of DEPLOYMENTS after each other: the embedded store needs more time for each
    bucket, the more buckets it has.
    """
    if request.node.get_closest_marker("own_deployment"):
        names = ("s3_access_key", "s3_secret_key", "s3_signer_access_key", "s3_signer_secret_key")
        keys = known_identities.setdefault(
            fresh_deployment.s3_endpoint, {name: getattr(fresh_deployment, name) for name in names}
        )
        own = msgspec.structs.replace(fresh_deployment, **keys)
        bootstrap(own)
        yield own
        return
    waiting = used_deployments.setdefault(fresh_deployment.s3_endpoint, [])
    if len(waiting) < DEPLOYMENTS:
        bootstrap(fresh_deployment)
        waiting.append(fresh_deployment)
    else:
        waiting.append(waiting.pop(0))
    chosen = waiting[-1]
    yield chosen
    try:
        empty_buckets(chosen)
    except (minio.error.S3Error, ValueError):
        # The test has damaged an object. The SDK cannot read its entry in MinIO's listing.
        waiting.remove(chosen)


def empty_buckets(deployment: Deployment) -> None:
    """Delete all objects of a deployment. Raises S3Error if one cannot be deleted."""
    root = root_sdk(deployment)
    for bucket in (deployment.incoming_bucket, deployment.vault_bucket):
        for found in root.list_objects(bucket, recursive=True):
            root.remove_object(bucket, found.object_name or "")


@pytest.fixture
def object_store(deployment: Deployment) -> Iterator[ObjectStore]:
    with open_store(
        deployment.s3_endpoint, deployment.s3_access_key, secret_key=deployment.s3_secret_key
    ) as opened:
        yield opened


@pytest.fixture
def incoming(object_store: ObjectStore, deployment: Deployment) -> Bucket:
    return object_store.bucket(deployment.incoming_bucket)


@pytest.fixture
def vault(object_store: ObjectStore, deployment: Deployment) -> Bucket:
    return object_store.bucket(deployment.vault_bucket)


@pytest.fixture
def signer(deployment: Deployment) -> Signer:
    return Signer(
        deployment.s3_endpoint,
        access_key=deployment.s3_signer_access_key,
        secret_key=deployment.s3_signer_secret_key,
        region=deployment.s3_region,
    )


@pytest.fixture
def open_signer(deployment: Deployment) -> Signer:
    """Return a signer whose URLs forbid no header, for tests of what the binding prevents."""
    return Signer(
        deployment.s3_endpoint,
        access_key=deployment.s3_signer_access_key,
        secret_key=deployment.s3_signer_secret_key,
        region=deployment.s3_region,
        bind_absent_headers=False,
    )


@pytest.fixture
def root_signer(store: StoreUnderTest) -> Signer:
    """Return a signer with root's keys, which no policy restricts.

    The service never signs with root's keys.
    """
    return Signer(
        store.endpoint,
        access_key=store.root_access_key,
        secret_key=store.root_secret_key,
        region=REGION,
        bind_absent_headers=False,
    )


def root_sdk(deployment: Deployment) -> minio.Minio:
    """Return the SDK with root's credentials.

    It shares no code with the service's client, so that it can confirm what that client did.
    """
    parts = urlsplit(deployment.s3_endpoint)
    keys = (deployment.s3_root_access_key, deployment.s3_root_secret_key)
    return minio.Minio(parts.netloc, *keys, secure=parts.scheme == "https", region=REGION)


def read_headers(deployment: Deployment, bucket: str, key: str) -> dict[str, str]:
    """Return all headers of the response to a HEAD, by their names in lower case.

    The service's own client reads no header that it does not need.
    """
    headers = root_sdk(deployment).stat_object(bucket, key).metadata or {}
    return {name.lower(): value for name, value in headers.items()}


def read_metadata(deployment: Deployment, bucket: Bucket, key: str) -> dict[str, str]:
    """Return all metadata of an object, by names without `x-amz-meta-`."""
    prefix = "x-amz-meta-"
    headers = read_headers(deployment, bucket.name, key)
    return {
        name.removeprefix(prefix): value
        for name, value in headers.items()
        if name.startswith(prefix)
    }


def read_tags(deployment: Deployment, bucket: str, key: str) -> dict[str, str]:
    """Return the tags of an object, which the service identity may not read."""
    return dict(root_sdk(deployment).get_object_tags(bucket, key) or {})


@contextmanager
def open_store(endpoint: str, access_key: str, *, secret_key: str) -> Iterator[ObjectStore]:
    opened = ObjectStore(endpoint, access_key=access_key, secret_key=secret_key, region=REGION)
    try:
        yield opened
    finally:
        opened.close()


@contextmanager
def open_root_store(deployment: Deployment) -> Iterator[ObjectStore]:
    """Yield the deployment's store as its root."""
    with open_store(
        deployment.s3_endpoint,
        deployment.s3_root_access_key,
        secret_key=deployment.s3_root_secret_key,
    ) as opened:
        yield opened


# Requests as a client sends them


@dataclass(frozen=True)
class Answer:
    """A response of the store. `code` is its error code, from the body or from MinIO's header."""

    status: int
    code: str | None
    headers: Mapping[str, str]
    body: bytes


Headers = Mapping[str, str] | Sequence[tuple[str, str]]
"""Header fields. Pairs allow a name to be repeated."""


def send(
    method: str,
    url: str,
    *,
    body: bytes = b"",
    headers: Headers | None = None,
    chunked: bool = False,
) -> Answer:
    """Send one request with these headers, and return the response.

    The only other headers are Host and the body's length, or `Transfer-Encoding` if `chunked`.
    """
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=30)
    try:
        connection.putrequest(method, f"{parts.path}?{parts.query}", skip_accept_encoding=True)
        for name, value in pair_headers(headers or {}):
            connection.putheader(name, value)
        connection.putheader(
            *(("Transfer-Encoding", "chunked") if chunked else ("Content-Length", str(len(body))))
        )
        connection.endheaders(body, encode_chunked=chunked)
        return receive(connection)
    finally:
        connection.close()


def pair_headers(headers: Headers) -> list[tuple[str, str]]:
    return list(headers.items() if isinstance(headers, Mapping) else headers)


def add_headers(own: Mapping[str, str], more: Headers | None) -> list[tuple[str, str]]:
    """Return both, where a name of `more` replaces the same name of `own`."""
    pairs = pair_headers(more or {})
    replaced = {name.lower() for name, _ in pairs}
    return [*[(name, value) for name, value in own.items() if name.lower() not in replaced], *pairs]


def receive(connection: http.client.HTTPConnection) -> Answer:
    response = connection.getresponse()
    body = response.read()
    code = (
        ET.fromstring(body).findtext("{*}Code")  # noqa: S314  # a store that the tests started
        if body.startswith(b"<?xml")
        else None
    )
    return Answer(
        response.status,
        code or response.headers.get("x-minio-error-code"),
        dict(response.headers),
        body,
    )


def now() -> datetime:
    return datetime.now(UTC)


# The receiver of the store's events


class EventLog:
    """The events that arrived, in order."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._events: list[dict[str, Any]] = []

    def add(self, event: dict[str, Any]) -> None:
        with self._changed:
            self._events.append(event)
            self._changed.notify_all()

    @property
    def keys(self) -> list[str]:
        with self._changed:
            return [event["Key"] for event in self._events]

    def wait_for(self, key: str, *, seconds: float = 30) -> dict[str, Any]:
        """Return the event of that key (`bucket/key`). Raises AssertionError if none arrives."""
        with self._changed:
            found = self._changed.wait_for(
                lambda: [event for event in self._events if event["Key"] == key], timeout=seconds
            )
        assert found, f"no event for {key} within {seconds} s"
        return dict(found[0])


@contextmanager
def listening(store: StoreUnderTest) -> Iterator[EventLog]:
    """Take the store's events in place of an API. Events of earlier tests may arrive too."""
    log = EventLog()

    class Receiver(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", "0")))
            self.send_response(
                204 if self.headers.get("Authorization") == f"Bearer {store.webhook_token}" else 401
            )
            self.end_headers()
            if body:
                log.add(json.loads(body))

        def do_HEAD(self) -> None:
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", store.webhook_port), Receiver)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield log
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
