"""The Python client sends files in parts, through a proxy that counts them and behaves badly."""

import asyncio
import hashlib
import itertools
import os
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

import asyncpg
import msgspec
import pytest

from assay import Client, Progress
from assay.errors import SourceChanged, StoreRefused, Unauthorized, UploadLost
from service.model import MIB
from service.resources import open_resources
from service.settings import Settings, Url
from service.uploads import PART_BYTES
from tests.e2e.conftest import new_key, run_apart, serving
from tests.e2e.leaks import keep_secret
from tests.store_proxies import Fault, StoreProxy, proxied_store

SIZE = 2 * PART_BYTES + 5 * MIB
"""Three parts."""
KILLS = 20
KILLED_PARTS = 18
HEADERS = {"host", "content-length", "accept-encoding", "user-agent"}


@dataclass(frozen=True)
class Site:
    """An API whose clients reach the store through the proxy, and somebody's key."""

    url: str
    key: str = field(repr=False)
    proxy: StoreProxy
    settings: Settings = field(repr=False)


@pytest.fixture
def site(settings: Settings, logs: object) -> Iterator[Site]:
    with proxied_store(settings.s3_endpoint) as proxy:
        switched = msgspec.structs.replace(
            settings, s3_public_endpoint=Url(proxy.endpoint), upload_url_ttl=timedelta(seconds=5), sweep_every=timedelta(seconds=1)
        )
        key = make_key(switched)
        keep_secret(switched.secrets())
        with serving(switched) as url:
            yield Site(url, key, proxy, switched)


def make_key(settings: Settings) -> str:
    key = run_apart(new_key(settings, "sender", scopes=("read", "write"), expires_in=None))
    keep_secret([key])
    return key


@pytest.fixture
def sender(site: Site) -> Iterator[Client]:
    with Client(site.url, site.key, parallel=1) as client:
        yield client


@pytest.fixture
def video(tmp_path: Path) -> Path:
    return write(tmp_path / "video.mp4", SIZE)


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


@pytest.mark.parametrize("parallel", [1, 4])
def test_parts_are_sent_and_the_whole_is_proved(site: Site, video: Path, parallel: int) -> None:
    seen: list[Progress] = []
    with Client(site.url, site.key, parallel=parallel) as client:
        file = client.upload(video, multipart=True, progress=seen.append)
    assert (file.state, file.hash, file.declared_sha256) == ("ready", digest(video), digest(video))
    assert sorted(sent_parts(site), key=str) == [1, 2, 3]
    done = [progress.bytes_done for progress in seen]
    assert done == sorted(done)
    assert seen[-1] == Progress(SIZE, SIZE, "done")


def test_the_store_gets_no_key_and_no_header_that_the_url_does_not_ask_for(site: Site, sender: Client, video: Path) -> None:
    sender.upload(video, multipart=True)
    sender.upload(b"one PUT", content_type="text/plain")
    for seen in site.proxy.seen:
        assert set(seen.headers) - HEADERS <= ({"if-none-match", "content-type"} if seen.part is None else set())
        assert site.key not in str(seen.headers)


@pytest.mark.parametrize("how", ["parts", "none"])
def test_less_may_be_hashed(site: Site, video: Path, how: str) -> None:
    with Client(site.url, site.key) as client:
        file = client.upload(video, multipart=True, hash="parts" if how == "parts" else "none")
    assert (file.state, file.hash, file.declared_sha256) == ("ready", digest(video), None)


def test_bytes_in_memory_go_in_parts_too(site: Site) -> None:
    body = os.urandom(PART_BYTES + 1)
    with Client(site.url, site.key) as client:
        assert client.upload(body, multipart=True).hash == hashlib.sha256(body).hexdigest()
        assert client.upload(b"", multipart=True).size == 0


@pytest.mark.parametrize(
    "fault",
    [Fault(cut_after=5 * MIB), Fault(answer=503), Fault(answer=500), Fault(lose_answer=True), Fault(delay_seconds=7)],
    ids=["cut inside a part", "503 SlowDown", "500", "lost answer", "the URL has ended"],
)
def test_a_part_that_failed_is_sent_again_and_nothing_else(site: Site, sender: Client, video: Path, fault: Fault) -> None:
    site.proxy.faults = [Fault(), fault]
    seen: list[int] = []
    assert sender.upload(video, multipart=True, progress=lambda now: seen.append(now.bytes_done)).hash == digest(video)
    assert sent_parts(site) == [1, 2, 2, 3]
    assert seen == sorted(seen)
    if fault.delay_seconds:
        assert [each.status for each in site.proxy.requests_of(2)] == [403, 200]


@pytest.mark.parametrize(
    "fault",
    [Fault(cut_after=MIB), Fault(answer=503), Fault(lose_answer=True), Fault(delay_seconds=7)],
    ids=["cut", "503 SlowDown", "lost answer", "the URL has ended"],
)
def test_one_put_that_failed_is_sent_again(site: Site, sender: Client, video: Path, fault: Fault) -> None:
    site.proxy.faults = [fault]
    assert sender.upload(video, multipart=False).hash == digest(video)
    first, second = site.proxy.seen
    if fault.lose_answer:
        assert (first.status, second.status in (200, 412)) == (200, True)
    if fault.delay_seconds:
        assert (first.status, second.status) == (403, 200)


def test_a_slow_line_is_not_a_dead_one(site: Site, tmp_path: Path) -> None:
    """A megabyte takes longer than the time-out; what is between the two swallows the first few."""
    photo = write(tmp_path / "photo.jpg", 9 * MIB)
    site.proxy.faults = [Fault(pause_seconds=0.4)]
    with Client(site.url, site.key, timeout=1.2) as client:
        assert client.upload(photo).hash == digest(photo)
    assert len(site.proxy.seen) == 1


def test_a_store_that_slows_us_down_is_asked_again_with_growing_waits(site: Site, sender: Client, video: Path) -> None:
    site.proxy.faults = [Fault(answer=503)] * 5
    assert sender.upload(video, multipart=True).hash == digest(video)
    slowed = [seen for seen in site.proxy.requests_of(1) if seen.status == 503]
    waits = [later.begun - earlier.begun for earlier, later in itertools.pairwise(slowed)]
    assert len(waits) == 4
    assert waits[-1] > 2 * waits[0]


def test_bytes_that_are_altered_on_the_way_are_refused(site: Site, sender: Client, video: Path) -> None:
    site.proxy.faults = [Fault(), Fault(spoil=True)]
    with pytest.raises(StoreRefused) as raised:
        sender.upload(video, multipart=True)
    assert raised.value.status == 400
    assert sent_parts(site) == [1, 2]
    assert [file.state for file in sender.list(state="deleted")] == ["deleted"]


def test_what_the_store_refused_can_be_gone_on_with(site: Site, sender: Client, video: Path, tmp_path: Path) -> None:
    site.proxy.faults = [Fault(), Fault(spoil=True)]
    with pytest.raises(StoreRefused):
        sender.upload(video, multipart=True, resume=tmp_path / "state")
    assert sender.upload(video, multipart=True, resume=tmp_path / "state").hash == digest(video)
    assert sent_parts(site) == [1, 2, 2, 3]


def test_a_part_that_the_store_says_it_has_and_has_not_is_sent_again(site: Site, sender: Client, video: Path) -> None:
    site.proxy.faults = [Fault(answer=200)]
    assert sender.upload(video, multipart=True).hash == digest(video)
    assert sent_parts(site) == [1, 2, 3, 1]


class Ended(Exception):
    """The run ends here, as if it were killed."""


def interrupt(site: Site, video: Path, state: Path, *, after: int) -> None:
    """One run that does not reach its end, on a line that is not too fast for the reports of progress."""

    def report(now: Progress) -> None:
        if now.bytes_done >= after:
            raise Ended

    site.proxy.faults = [Fault(pause_seconds=0.01)] * 3
    with Client(site.url, site.key, parallel=1) as client, pytest.raises(Ended):
        client.upload(video, multipart=True, resume=state, progress=report)
    site.proxy.faults = []


def test_a_run_that_ended_in_the_middle_loses_the_part_in_flight_alone(site: Site, sender: Client, video: Path, tmp_path: Path) -> None:
    interrupt(site, video, tmp_path / "state", after=PART_BYTES + 5 * MIB)
    seen: list[Progress] = []
    assert sender.upload(video, multipart=True, resume=tmp_path / "state", progress=seen.append).hash == digest(video)
    assert sent_parts(site) == [1, 2, 2, 3]
    assert not (tmp_path / "state").exists()


@pytest.mark.parametrize("shown", [True, False], ids=["size and time", "the digest alone"])
def test_a_source_that_changed_between_two_runs_is_said(site: Site, sender: Client, video: Path, tmp_path: Path, shown: bool) -> None:
    interrupt(site, video, tmp_path / "state", after=PART_BYTES + 5 * MIB)
    times = video.stat()
    with video.open("r+b") as opened:
        opened.write(b"other bytes")
    if not shown:
        os.utime(video, ns=(times.st_atime_ns, times.st_mtime_ns))
    with pytest.raises(SourceChanged, match="was changed since its upload began"):
        sender.upload(video, multipart=True, resume=tmp_path / "state")
    assert sent_parts(site) == [1, 2]
    assert sender.upload(video, multipart=True, resume=tmp_path / "state", restart=True).hash == digest(video)


def test_a_source_that_changes_while_its_parts_are_sent_is_no_file(site: Site, sender: Client, video: Path, tmp_path: Path) -> None:
    def change(now: Progress) -> None:
        if now.bytes_done > PART_BYTES:
            with video.open("r+b") as opened:
                opened.seek(-1, os.SEEK_END)
                opened.write(b"!")

    with pytest.raises(SourceChanged):
        sender.upload(video, multipart=True, resume=tmp_path / "state", progress=change)
    assert not list(sender.list())
    assert not (tmp_path / "state").exists()


def test_a_key_that_is_revoked_in_the_middle_ends_the_run_and_another_goes_on(
    site: Site, sender: Client, video: Path, tmp_path: Path
) -> None:
    def revoke(now: Progress) -> None:
        if now.bytes_done > 2 * MIB:
            asyncio.run(revoke_all(site.settings))

    with pytest.raises(Unauthorized) as raised:
        sender.upload(video, multipart=True, resume=tmp_path / "state", progress=revoke)
    assert raised.value.problem
    assert raised.value.problem.type == "urn:assay:problem:unauthorized"
    with Client(site.url, make_key(site.settings)) as client:
        assert client.upload(video, multipart=True, resume=tmp_path / "state").hash == digest(video)
    assert sorted(sent_parts(site), key=str) == [1, 2, 3]


async def revoke_all(settings: Settings) -> None:
    connection = await asyncpg.connect(settings.database_url)
    try:
        await connection.execute("UPDATE api_keys SET revoked_at = now() WHERE revoked_at IS NULL")
    finally:
        await connection.close()


def test_an_upload_that_the_store_lost_is_said_and_begun_anew_by_the_next_run(
    site: Site, sender: Client, video: Path, tmp_path: Path
) -> None:
    lost: list[object] = []

    def lose(now: Progress) -> None:
        if now.phase == "verifying" and not lost:  # with a part on its way the embedded store would begin the upload again
            lost.append(asyncio.run(abort_all(site.settings)))

    with pytest.raises(UploadLost):
        sender.upload(video, multipart=True, resume=tmp_path / "state", progress=lose)
    assert not (tmp_path / "state").exists()
    interrupt(site, video, tmp_path / "state", after=PART_BYTES + MIB)
    asyncio.run(abort_all(site.settings))
    assert sender.upload(video, multipart=True, resume=tmp_path / "state").hash == digest(video)


async def abort_all(settings: Settings) -> None:
    """As the store drops what is stale."""
    async with open_resources(settings) as resources:
        rows = await resources.pool.fetch("SELECT incoming_key, upload_id FROM files WHERE upload_id IS NOT NULL AND state = 'pending'")
        for row in rows:
            await resources.incoming.abort_upload(row["incoming_key"], row["upload_id"])


@pytest.mark.parametrize("years", [-20, 20])
def test_a_wrong_clock_of_the_client_does_not_matter(site: Site, video: Path, tmp_path: Path, years: int) -> None:
    program = f"""
import time
real = time.time
time.time = lambda: real() + {years} * 365 * 86400
time.time_ns = lambda: int(time.time() * 1e9)
from assay import Client
with Client({site.url!r}) as client:
    file = client.upload({str(video)!r}, multipart=True, resume={str(tmp_path / "state")!r})
    client.download(file, {str(tmp_path / "copy.mp4")!r})
"""
    subprocess.run([sys.executable, "-c", program], env={**os.environ, "ASSAY_KEY": site.key}, timeout=120, check=True)
    assert digest(tmp_path / "copy.mp4") == digest(video)


def test_killed_twenty_times_no_part_is_sent_twice_but_those_in_flight(site: Site, tmp_path: Path) -> None:
    """Each time after another number of bytes, from none to more than two parts'."""
    video, chance = write(tmp_path / "video.mp4", KILLED_PARTS * PART_BYTES), random.Random(4)  # noqa: S311  # the same every time
    kills: list[float] = []
    for _ in range(KILLS):
        with start_sending(site, video, tmp_path) as process:
            wait_for_bytes(site.proxy, process, chance.randrange(int(2.2 * PART_BYTES)))
            process.kill()
            kills.append(time.monotonic())
        if process.returncode == 0:
            break
    with start_sending(site, video, tmp_path) as process:
        assert process.wait(120) == 0
    assert len(kills) == KILLS, "it was done too early to be killed as often"
    with Client(site.url, site.key) as client:
        [file] = client.list()
    assert (file.state, file.hash) == ("ready", digest(video))
    for part in range(1, KILLED_PARTS + 1):
        check_sent_once(site.proxy, part, kills)


def start_sending(site: Site, video: Path, folder: Path) -> subprocess.Popen[bytes]:
    program = f"""
from assay import Client
Client({site.url!r}, parallel=2).upload({str(video)!r}, multipart=True, resume={str(folder / "state")!r})
"""
    return subprocess.Popen([sys.executable, "-c", program], env={**os.environ, "ASSAY_KEY": site.key})


def wait_for_bytes(proxy: StoreProxy, process: subprocess.Popen[bytes], size: int) -> None:
    wanted = proxy.passed + size
    with proxy.changed:
        while proxy.passed < wanted and process.poll() is None:
            proxy.changed.wait(0.05)


def check_sent_once(proxy: StoreProxy, part: int, kills: list[float]) -> None:
    """Nothing was sent in a run after the one in which the store said, before the kill, that it has the part."""
    requests = proxy.requests_of(part)
    done = [seen for seen in requests if seen.status == 200 and seen.answered is not None]
    assert done, f"part {part} never arrived"
    first = min(seen.answered or 0 for seen in done)
    ends = [kill for kill in kills if kill > first]
    for seen in requests:
        assert not ends or seen.begun < ends[0], f"part {part} was sent again although the store had it"
