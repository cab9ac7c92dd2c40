"""Fixtures for tests of the service, each with its own database and its own deployment."""

import logging
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from datetime import timedelta

import pytest
import structlog

from service.object_store import Bucket
from service.resources import Resources, open_resources
from service.settings import (
    BucketName,
    DatabaseUrl,
    Delay,
    Deployment,
    Secret,
    Settings,
    Token,
    Url,
)
from tests.support.stores import StoreUnderTest, open_root_store


@pytest.fixture
def settings(deployment: Deployment, store: StoreUnderTest, database_url: str) -> Settings:
    return make_settings(deployment, store, database_url)


def make_settings(deployment: Deployment, store: StoreUnderTest, database_url: str) -> Settings:
    return Settings(
        database_url=DatabaseUrl(Secret(database_url)),
        s3_endpoint=Url(deployment.s3_endpoint),
        s3_region=deployment.s3_region,
        s3_access_key=Secret(deployment.s3_access_key),
        s3_secret_key=Secret(deployment.s3_secret_key),
        s3_signer_access_key=Secret(deployment.s3_signer_access_key),
        s3_signer_secret_key=Secret(deployment.s3_signer_secret_key),
        s3_reader_access_key=deployment.s3_reader_access_key,
        s3_reader_secret_key=deployment.s3_reader_secret_key,
        incoming_bucket=BucketName(deployment.incoming_bucket),
        vault_bucket=BucketName(deployment.vault_bucket),
        webhook_token=(Token(Secret(store.webhook_token)),),
        sweep_delay=Delay(timedelta(0)),  # tests wait for the deletions
        link_secret=(Secret("a secret that signs links and upload tokens"),),
    )


@contextmanager
def logging_as_before() -> Iterator[None]:
    """Restore the logging configuration afterwards.

    `configure_logs` changes it for the whole process, which has more tests to run.
    """
    before, root = structlog.get_config(), logging.getLogger()
    handlers, level = root.handlers[:], root.level
    try:
        yield
    finally:
        structlog.configure(**before)
        root.handlers[:] = handlers
        root.setLevel(level)


@pytest.fixture(autouse=True)
def logs_go_where_they_went() -> Iterator[None]:
    """Restore the logging configuration after each test.

    A command under test may have directed the logs to a stream that pytest closes.
    """
    with logging_as_before():
        yield


@pytest.fixture
async def resources(settings: Settings) -> AsyncIterator[Resources]:
    async with open_resources(settings) as opened:
        yield opened


@pytest.fixture
def root_incoming(deployment: Deployment) -> Iterator[Bucket]:
    """Yield the incoming bucket as root, which may write what no URL allows."""
    with open_root_store(deployment) as opened:
        yield opened.bucket(deployment.incoming_bucket)
