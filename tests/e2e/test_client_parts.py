"""Tests of multipart uploads by the Python client, through a proxy that injects faults."""

import hashlib
import itertools
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from assay import Client, Progress
from assay.errors import Rejected, StoreRefused
from service.model import MIB
from service.settings import Settings
from service.uploads.declaring import PART_BYTES
from tests.e2e.client_sites import SIZE, Site, digest, open_site, sent_parts, write
from tests.support.store_proxies import Fault

HEADERS = {"host", "content-length", "accept-encoding", "user-agent"}
"""The headers that every client sends with a PUT."""


@pytest.fixture
def site(settings: Settings, logs: object) -> Iterator[Site]:
    with open_site(settings) as opened:
        yield opened


@pytest.fixture
def sender(site: Site) -> Iterator[Client]:
    with Client(site.url, site.key, parallel=1) as client:
        yield client


@pytest.fixture
def video(tmp_path: Path) -> Path:
    return write(tmp_path / "video.mp4", SIZE)


@pytest.mark.parametrize("parallel", [1, 4])
def test_a_file_that_is_sent_in_parts_is_proved(site: Site, video: Path, parallel: int) -> None:
    seen: list[Progress] = []
    with Client(site.url, site.key, parallel=parallel) as client:
        file = client.upload(video, multipart=True, progress=seen.append)
    assert (file.state, file.hash, file.declared_sha256) == ("ready", digest(video), digest(video))
    assert sorted(sent_parts(site), key=str) == [1, 2, 3]
    done = [progress.bytes_done for progress in seen]
    assert done == sorted(done)
    assert seen[-1] == Progress(SIZE, SIZE, "done")


def test_the_store_gets_no_key_and_only_the_headers_of_the_url(
    site: Site, sender: Client, video: Path
) -> None:
    sender.upload(video, multipart=True)
    sender.upload(b"one PUT", content_type="text/plain")
    for seen in site.proxy.seen:
        assert set(seen.headers) - HEADERS <= (
            {"if-none-match", "content-type"} if seen.part is None else set()
        )
        assert site.key not in str(seen.headers)


@pytest.mark.parametrize("how", ["parts", "none"])
def test_the_client_can_hash_only_the_parts_or_nothing(site: Site, video: Path, how: str) -> None:
    with Client(site.url, site.key) as client:
        file = client.upload(video, multipart=True, hash="parts" if how == "parts" else "none")
    assert (file.state, file.hash, file.declared_sha256) == ("ready", digest(video), None)


def test_bytes_in_memory_are_sent_in_parts(site: Site) -> None:
    body = os.urandom(PART_BYTES + 1)
    with Client(site.url, site.key) as client:
        assert client.upload(body, multipart=True).hash == hashlib.sha256(body).hexdigest()
        assert client.upload(b"", multipart=True).size == 0


@pytest.mark.one_store
@pytest.mark.parametrize(
    "fault",
    [
        Fault(cut_after=5 * MIB),
        Fault(answer=503),
        Fault(answer=500),
        Fault(lose_answer=True),
        Fault(delay_seconds=7),
    ],
    ids=["cut inside a part", "503 SlowDown", "500", "lost response", "the URL has expired"],
)
def test_only_a_part_that_failed_is_sent_again(
    site: Site, sender: Client, video: Path, fault: Fault
) -> None:
    site.proxy.faults = [Fault(), fault]
    seen: list[int] = []
    assert sender.upload(
        video, multipart=True, progress=lambda now: seen.append(now.bytes_done)
    ).hash == digest(video)
    assert sent_parts(site) == [1, 2, 2, 3]
    assert seen == sorted(seen)
    if fault.delay_seconds:
        assert [each.status for each in site.proxy.requests_of(2)] == [403, 200]


@pytest.mark.one_store
@pytest.mark.parametrize(
    "fault",
    [Fault(cut_after=MIB), Fault(answer=503), Fault(lose_answer=True), Fault(delay_seconds=7)],
    ids=["cut", "503 SlowDown", "lost response", "the URL has expired"],
)
def test_a_single_put_that_failed_is_sent_again(
    site: Site, sender: Client, video: Path, fault: Fault
) -> None:
    site.proxy.faults = [fault]
    assert sender.upload(video, multipart=False).hash == digest(video)
    first, second = site.proxy.seen
    if fault.lose_answer:
        assert (first.status, second.status in (200, 412)) == (200, True)
    if fault.delay_seconds:
        assert (first.status, second.status) == (403, 200)


@pytest.mark.one_store
def test_a_slow_upload_is_not_treated_as_a_timeout(site: Site, tmp_path: Path) -> None:
    """Send each megabyte more slowly than the timeout.

    Buffers between the client and the proxy take the first few megabytes at once.
    """
    photo = write(tmp_path / "photo.jpg", 9 * MIB)
    site.proxy.faults = [Fault(pause_seconds=0.4)]
    with Client(site.url, site.key, timeout=1.2) as client:
        assert client.upload(photo).hash == digest(photo)
    assert len(site.proxy.seen) == 1


@pytest.mark.one_store
def test_503_slow_down_is_retried_with_growing_delays(
    site: Site, sender: Client, video: Path
) -> None:
    site.proxy.faults = [Fault(answer=503)] * 5
    assert sender.upload(video, multipart=True).hash == digest(video)
    slowed = [seen for seen in site.proxy.requests_of(1) if seen.status == 503]
    waits = [later.begun - earlier.begun for earlier, later in itertools.pairwise(slowed)]
    assert len(waits) == 4
    assert waits[-1] > 2 * waits[0]


def test_bytes_that_are_altered_in_transit_are_refused(
    site: Site, sender: Client, video: Path
) -> None:
    site.proxy.faults = [Fault(), Fault(spoil=True)]
    with pytest.raises(StoreRefused) as raised:
        sender.upload(video, multipart=True, hash="parts")
    assert raised.value.status == 400
    assert sent_parts(site) == [1, 2]
    assert [file.state for file in sender.list(state="deleted")] == ["deleted"]


def test_an_upload_with_a_refused_part_can_be_resumed(
    site: Site, sender: Client, video: Path, tmp_path: Path
) -> None:
    site.proxy.faults = [Fault(), Fault(spoil=True)]
    options: Any = {"multipart": True, "hash": "parts", "resume": tmp_path / "state"}
    with pytest.raises(StoreRefused):
        sender.upload(video, **options)
    assert sender.upload(video, **options).hash == digest(video)
    assert sent_parts(site) == [1, 2, 2, 3]


@pytest.mark.parametrize("known", [False, True], ids=["computed", "known"])
@pytest.mark.parametrize("multipart", [True, False], ids=["parts", "one PUT"])
def test_bytes_that_were_altered_in_transit_are_sent_once_more(
    site: Site, sender: Client, video: Path, multipart: bool, known: bool
) -> None:
    sha256 = digest(video) if known else None
    site.proxy.faults = [Fault(spoil=True)]
    if known and not multipart:  # the URL binds the digest
        with pytest.raises(StoreRefused):
            sender.upload(video, multipart=multipart, sha256=sha256)
        return
    file = sender.upload(video, multipart=multipart, sha256=sha256)
    assert (file.state, file.hash) == ("ready", digest(video))
    [rejected] = sender.list(state="rejected")
    assert rejected.rejection
    assert rejected.rejection.reason == "digest-mismatch"
    assert len(sent_parts(site)) == (6 if multipart else 2)


def test_bytes_that_are_altered_each_time_are_sent_only_twice(
    site: Site, sender: Client, video: Path
) -> None:
    site.proxy.faults = [Fault(spoil=True)] * 6
    with pytest.raises(Rejected):
        sender.upload(video, multipart=True)
    assert len(list(sender.list(state="rejected"))) == 2
    assert len(sent_parts(site)) == 6


def test_a_wrong_digest_of_the_caller_is_sent_once(site: Site, sender: Client, video: Path) -> None:
    with pytest.raises(Rejected):
        sender.upload(video, multipart=True, sha256="0" * 64)
    assert sent_parts(site) == [1, 2, 3]


def test_a_part_that_the_store_accepted_but_does_not_list_is_sent_again(
    site: Site, sender: Client, video: Path
) -> None:
    site.proxy.faults = [Fault(answer=200)]
    assert sender.upload(video, multipart=True).hash == digest(video)
    assert sent_parts(site) == [1, 2, 3, 1]
