"""An API whose clients reach the store through a counting proxy, and shared test functions."""

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

import msgspec

from service.model import MIB
from service.settings import Settings, Url
from service.uploads.declaring import PART_BYTES
from tests.e2e.conftest import new_key, run_apart, serving
from tests.e2e.leaks import keep_secret
from tests.support.store_proxies import StoreProxy, proxied_store

SIZE = 2 * PART_BYTES + 5 * MIB
"""The size of a file that is sent in three parts."""


@dataclass(frozen=True)
class Site:
    """An API whose clients reach the store through the proxy, and the key of one owner."""

    url: str
    key: str = field(repr=False)
    proxy: StoreProxy
    settings: Settings = field(repr=False)


@contextmanager
def open_site(settings: Settings) -> Iterator[Site]:
    """Start a site whose upload URLs expire after 5 s."""
    with proxied_store(settings.s3_endpoint) as proxy:
        switched = msgspec.structs.replace(
            settings,
            s3_public_endpoint=Url(proxy.endpoint),
            upload_url_ttl=timedelta(seconds=5),
            sweep_every=timedelta(seconds=1),
        )
        key = make_key(switched)
        keep_secret(switched.secrets())
        with serving(switched) as url:
            yield Site(url, key, proxy, switched)


def make_key(settings: Settings) -> str:
    key = run_apart(new_key(settings, "sender", scopes=("read", "write"), expires_in=None))
    keep_secret([key])
    return key


def write(path: Path, size: int) -> Path:
    piece = os.urandom(MIB)
    with path.open("wb") as opened:
        for number in range(size // MIB):
            opened.write(number.to_bytes(8) + piece[8:])
    return path


def digest(path: Path) -> str:
    with path.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def sent_parts(site: Site) -> list[int | None]:
    return [seen.part for seen in site.proxy.seen]
