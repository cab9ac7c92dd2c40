"""Tests of multipart uploads by the Python client that are interrupted and then resumed."""

import asyncio
import os
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import asyncpg
import pytest

from assay import Client, Progress
from assay.errors import SourceChanged, Unauthorized, UploadLost
from assay.sendings import Hash
from service.model import MIB
from service.resources import open_resources
from service.settings import Settings
from service.uploads.declaring import PART_BYTES
from tests.e2e.client_sites import SIZE, Site, digest, make_key, open_site, sent_parts, write
from tests.support.store_proxies import Fault, StoreProxy

pytestmark = pytest.mark.one_store
KILLS = 20
KILLED_PARTS = 18


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


class Ended(Exception):
    """An exception that ends a run, as if it were killed."""


def interrupt(site: Site, video: Path, state: Path, *, after: int, hash: Hash = "auto") -> None:
    """Start an upload, and end it after it has sent `after` bytes.

    The proxy slows the upload down, because progress is reported only at intervals.
    """

    def report(now: Progress) -> None:
        if now.bytes_done >= after:
            raise Ended

    site.proxy.faults = [Fault(pause_seconds=0.01)] * 3
    with Client(site.url, site.key, parallel=1) as client, pytest.raises(Ended):
        client.upload(video, multipart=True, resume=state, hash=hash, progress=report)
    site.proxy.faults = []


def test_an_interrupted_run_loses_only_the_part_in_flight(
    site: Site, sender: Client, video: Path, tmp_path: Path
) -> None:
    interrupt(site, video, tmp_path / "state", after=PART_BYTES + 5 * MIB)
    seen: list[Progress] = []
    assert sender.upload(
        video, multipart=True, resume=tmp_path / "state", progress=seen.append
    ).hash == digest(video)
    assert sent_parts(site) == [1, 2, 2, 3]
    assert not (tmp_path / "state").exists()


@pytest.mark.parametrize("shown", [True, False], ids=["size and time", "the digest alone"])
def test_a_source_that_changed_between_two_runs_is_reported(
    site: Site, sender: Client, video: Path, tmp_path: Path, shown: bool
) -> None:
    how: Hash = "auto" if shown else "parts"
    interrupt(site, video, tmp_path / "state", after=PART_BYTES + 5 * MIB, hash=how)
    change_beginning(video, shown=shown)
    with pytest.raises(SourceChanged, match="has changed since its upload began"):
        sender.upload(video, multipart=True, resume=tmp_path / "state", hash=how)
    assert sent_parts(site) == [1, 2]
    assert sender.upload(
        video, multipart=True, resume=tmp_path / "state", restart=True
    ).hash == digest(video)


def change_beginning(video: Path, *, shown: bool) -> None:
    """Change the first bytes of the file and, if `shown`, its modification time."""
    times = video.stat()
    with video.open("r+b") as opened:
        opened.write(b"other bytes")
    if not shown:
        os.utime(video, ns=(times.st_atime_ns, times.st_mtime_ns))


def test_a_change_that_only_the_whole_digest_shows_is_sent_anew(
    site: Site, sender: Client, video: Path, tmp_path: Path
) -> None:
    interrupt(site, video, tmp_path / "state", after=PART_BYTES + 5 * MIB)
    change_beginning(video, shown=False)
    file = sender.upload(video, multipart=True, resume=tmp_path / "state")
    assert file.hash == digest(video)
    assert sent_parts(site) == [1, 2, 2, 3, 1, 2, 3]
    assert len(list(sender.list(state="rejected"))) == 1


def test_a_source_that_changes_while_it_is_sent_leaves_no_file(
    site: Site, sender: Client, video: Path, tmp_path: Path
) -> None:
    def change(now: Progress) -> None:
        if now.bytes_done > PART_BYTES:
            with video.open("r+b") as opened:
                opened.seek(-1, os.SEEK_END)
                opened.write(b"!")

    with pytest.raises(SourceChanged):
        sender.upload(video, multipart=True, resume=tmp_path / "state", progress=change)
    assert not list(sender.list())
    assert not (tmp_path / "state").exists()


def test_a_run_with_a_revoked_key_ends_and_another_key_resumes_it(
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


def test_an_upload_that_the_store_lost_is_started_again_by_the_next_run(
    site: Site, sender: Client, video: Path, tmp_path: Path
) -> None:
    lost: list[object] = []

    def lose(now: Progress) -> None:
        # While a part is in flight, the embedded store would create the upload again.
        if now.phase == "verifying" and not lost:
            lost.append(asyncio.run(abort_all(site.settings)))

    with pytest.raises(UploadLost):
        sender.upload(video, multipart=True, resume=tmp_path / "state", progress=lose)
    assert not (tmp_path / "state").exists()
    interrupt(site, video, tmp_path / "state", after=PART_BYTES + MIB)
    asyncio.run(abort_all(site.settings))
    assert sender.upload(video, multipart=True, resume=tmp_path / "state").hash == digest(video)


async def abort_all(settings: Settings) -> None:
    """Abort all multipart uploads, as a store does with stale ones."""
    async with open_resources(settings) as resources:
        rows = await resources.pool.fetch(
            "SELECT incoming_key, upload_id FROM files"
            " WHERE upload_id IS NOT NULL AND state = 'pending'"
        )
        for row in rows:
            await resources.incoming.abort_upload(row["incoming_key"], row["upload_id"])


@pytest.mark.parametrize("years", [-20, 20])
def test_a_client_with_a_wrong_clock_uploads_and_downloads(
    site: Site, video: Path, tmp_path: Path, years: int
) -> None:
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
    subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "ASSAY_KEY": site.key},
        timeout=120,
        check=True,
    )
    assert digest(tmp_path / "copy.mp4") == digest(video)


@pytest.mark.slow
def test_after_twenty_kills_only_parts_in_flight_are_sent_twice(site: Site, tmp_path: Path) -> None:
    """Kill the client after random numbers of bytes, from none to more than two parts.

    The random numbers are the same in every run of this test.
    """
    video = write(tmp_path / "video.mp4", KILLED_PARTS * PART_BYTES)
    chance = random.Random(4)  # noqa: S311  # not a secret
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
    assert len(kills) == KILLS, "the upload ended before it was killed as often as required"
    with Client(site.url, site.key) as client:
        [file] = client.list()
    assert (file.state, file.hash) == ("ready", digest(video))
    for part in range(1, KILLED_PARTS + 1):
        check_sent_once(site.proxy, part, kills)


def start_sending(site: Site, video: Path, folder: Path) -> subprocess.Popen[bytes]:
    program = f"""
from assay import Client
Client({site.url!r}, parallel=2).upload(
    {str(video)!r}, multipart=True, resume={str(folder / "state")!r}
)
"""
    return subprocess.Popen(
        [sys.executable, "-c", program], env={**os.environ, "ASSAY_KEY": site.key}
    )


def wait_for_bytes(proxy: StoreProxy, process: subprocess.Popen[bytes], size: int) -> None:
    wanted = proxy.passed + size
    with proxy.changed:
        while proxy.passed < wanted and process.poll() is None:
            proxy.changed.wait(0.05)


def check_sent_once(proxy: StoreProxy, part: int, kills: list[float]) -> None:
    """Check that no later run sends a part after the store has confirmed it before a kill."""
    requests = proxy.requests_of(part)
    done = [seen for seen in requests if seen.status == 200 and seen.answered is not None]
    assert done, f"part {part} never arrived"
    first = min(seen.answered or 0 for seen in done)
    ends = [kill for kill in kills if kill > first]
    for seen in requests:
        assert not ends or seen.begun < ends[0], (
            f"part {part} was sent again although the store had it"
        )
