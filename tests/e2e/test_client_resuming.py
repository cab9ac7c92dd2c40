"""Tests of the Python client that resumes single PUTs from its journal after it was killed.

The tests of multipart uploads are in test_client_parts_resumed.py.
"""

import asyncio
import hashlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from uuid import UUID

import pytest

from assay import Client
from assay.errors import InProgress, Rejected, ServerUnavailable, SourceChanged
from assay.files import File
from assay.journals import Journal, open_journal
from assay.sources import Source, open_source
from service import database
from service.settings import Settings
from tests.e2e.conftest import Api, Owner, run_apart
from tests.support.proxies import FaultyProxy, faulty_way
from tests.support.stores import send

pytestmark = pytest.mark.one_store

SIZE = 3_000_000


@pytest.fixture
def sender(api: Api, owner: Owner) -> Iterator[Client]:
    with Client(api.url, owner.key) as client:
        yield client


@pytest.fixture
def way(api: Api) -> Iterator[tuple[FaultyProxy, str]]:
    with faulty_way(api.url) as opened:
        yield opened


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    path = tmp_path / "photo.jpg"
    path.write_bytes(os.urandom(SIZE))
    return path


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def keep_journal(
    client: Client,
    photo: Path,
    state: Path,
    *,
    send_bytes: bool,
    complete: bool = False,
    sha256: str | None = None,
    before_sending: Callable[[File], None] | None = None,
) -> File:
    """Leave the state of a killed run: a journal, a declared file, and perhaps its bytes.

    Return the declared file.
    """
    with photo.open("rb") as opened:
        fields = {"filename": photo.name, "size": photo.stat().st_size}
        source = open_source(photo)
        assert isinstance(source, Source)
        journal: Journal = open_journal(state, client.url, fields, source=source, restart=False)
        declared = client._api.declare(fields, idempotency_key=journal.key)
        journal.note_file(declared.file.id)
        if before_sending:
            before_sending(declared.file)
        if send_bytes:
            assert declared.upload
            assert (
                send(
                    "PUT",
                    declared.upload.url or "",
                    body=opened.read(),
                    headers=declared.upload.headers,
                ).status
                == 200
            )
        if complete:
            client._api.complete(declared.file.id, sha256=sha256, wait=20)
        journal.close()
        source.close()
    return declared.file


def test_the_same_call_resumes_a_killed_run(
    owner: Owner, sender: Client, photo: Path, tmp_path: Path, way: tuple[FaultyProxy, str]
) -> None:
    """Kill the client before it receives the response to the declaration.

    The next run must find the same file by its idempotency key.
    """
    proxy, url = way
    states = tmp_path / "states"
    states.mkdir()
    program = (
        f"from assay import Client; Client({url!r}, {owner.key!r})"
        f".upload({str(photo)!r}, resume={str(states)!r})"
    )
    proxy.silence_after(b"Idempotency-Key")
    with subprocess.Popen([sys.executable, "-c", program]) as process:
        assert proxy.silenced.wait(20)
        deadline = time.monotonic() + 20
        while not list(sender.list()) and time.monotonic() < deadline:
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
    [before] = sender.list()
    [state] = states.iterdir()
    assert state.stat().st_mode & 0o777 == 0o600
    proxy.restore()
    with Client(url, owner.key) as client:
        file = client.upload(photo, resume=states)
    assert (file.id, file.hash) == (before.id, digest(photo))
    assert list(states.iterdir()) == []


@pytest.mark.parametrize(("send_bytes", "complete"), [(False, False), (True, False), (True, True)])
def test_completed_steps_are_not_repeated(
    sender: Client, photo: Path, tmp_path: Path, send_bytes: bool, complete: bool
) -> None:
    before = keep_journal(
        sender, photo, tmp_path / "state", send_bytes=send_bytes, complete=complete
    )
    file = sender.upload(photo, resume=tmp_path / "state")
    assert (file.id, file.state, file.hash) == (before.id, "ready", digest(photo))
    assert [found.id for found in sender.list()] == [before.id]
    assert not (tmp_path / "state").exists()


def test_a_source_that_changed_between_two_runs_is_reported(
    sender: Client, photo: Path, tmp_path: Path
) -> None:
    keep_journal(sender, photo, tmp_path / "state", send_bytes=False)
    photo.write_bytes(os.urandom(SIZE))
    with pytest.raises(SourceChanged, match="has changed since its upload began") as raised:
        sender.upload(photo, resume=tmp_path / "state")
    assert raised.value.state == tmp_path / "state"
    assert sender.upload(photo, resume=tmp_path / "state", restart=True).hash == digest(photo)
    assert not (tmp_path / "state").exists()


def replace_content(photo: Path) -> None:
    """Replace the file's bytes without a change of its size and times."""
    times = photo.stat()
    photo.write_bytes(os.urandom(SIZE))
    os.utime(photo, ns=(times.st_atime_ns, times.st_mtime_ns))


def test_a_change_that_size_and_time_do_not_show_is_found_by_the_digest(
    sender: Client, photo: Path, tmp_path: Path
) -> None:
    """Check that the client compares the digest of the new bytes with that of the proved ones."""
    keep_journal(sender, photo, tmp_path / "state", send_bytes=True, complete=True)
    replace_content(photo)
    with pytest.raises(SourceChanged):
        sender.upload(photo, resume=tmp_path / "state")


def test_the_digest_of_changed_bytes_rejects_the_earlier_ones(
    api: Api, sender: Client, photo: Path, tmp_path: Path
) -> None:
    """Hold a lease on the file until `complete` has sent the digest.

    Without the lease, the store's event could let a worker prove the file before that.
    """
    keep_journal(
        sender,
        photo,
        tmp_path / "state",
        send_bytes=True,
        before_sending=lambda file: run_apart(hold(api.settings, file.id)),
    )
    replace_content(photo)
    with ThreadPoolExecutor(1) as thread:
        uploading = thread.submit(sender.upload, photo, resume=tmp_path / "state")
        run_apart(release_with_digest(api.settings))
        file = uploading.result()
    # The bytes that the earlier run sent were rejected, and the client sent those of today.
    assert (file.state, file.hash) == ("ready", digest(photo))
    [rejected] = sender.list(state="rejected")
    assert rejected.rejection
    assert rejected.rejection.reason == "digest-mismatch"


HOLD = """
    UPDATE files SET lease = gen_random_uuid(), lease_until = now() + interval '1 hour'
    WHERE id = $1
"""
RELEASE = """
    UPDATE files SET lease = NULL, lease_until = NULL, due_at = now()
    WHERE lease_until > now() + interval '50 minutes' AND declared_sha256 IS NOT NULL
    RETURNING id
"""


async def hold(settings: Settings, file_id: UUID) -> None:
    async with await database.open_pool(settings) as pool:
        await pool.execute(HOLD, file_id)


async def release_with_digest(settings: Settings) -> None:
    """Wait until the held file has a declared digest, then release its lease."""
    async with await database.open_pool(settings) as pool, asyncio.timeout(60):
        while await pool.fetchval(RELEASE) is None:  # noqa: ASYNC110  # no event reports the digest
            await asyncio.sleep(0.05)


def test_a_source_that_changes_while_it_is_sent_leaves_no_file(
    sender: Client, photo: Path, tmp_path: Path
) -> None:
    def change(_: object) -> None:
        with photo.open("r+b") as opened:
            opened.write(b"changed")

    with pytest.raises(SourceChanged, match="while it was sent"):
        sender.upload(photo, resume=tmp_path / "state", progress=change)
    assert [file.state for file in sender.list(state="deleted")] == ["deleted"]
    assert not (tmp_path / "state").exists()
    with pytest.raises(SourceChanged, match="shorter"):
        sender.upload(photo, progress=lambda _: os.truncate(photo, 1000))


def test_an_upload_whose_file_was_deleted_starts_again(
    sender: Client, photo: Path, tmp_path: Path
) -> None:
    before = keep_journal(sender, photo, tmp_path / "state", send_bytes=False)
    sender.delete(before)
    file = sender.upload(photo, resume=tmp_path / "state")
    assert (file.id == before.id, file.state) == (False, "ready")


def test_another_owner_does_not_resume_the_upload(
    api: Api, sender: Client, photo: Path, tmp_path: Path
) -> None:
    before = keep_journal(sender, photo, tmp_path / "state", send_bytes=True)
    with Client(api.url, api.new_owner().key) as other:
        assert other.upload(photo, resume=tmp_path / "state").id != before.id


def test_a_rejected_file_is_reported_once(sender: Client, photo: Path, tmp_path: Path) -> None:
    keep_journal(sender, photo, tmp_path / "state", send_bytes=True, complete=True, sha256="0" * 64)
    with pytest.raises(Rejected, match="digest-mismatch") as raised:
        sender.upload(photo, resume=tmp_path / "state")
    assert raised.value.file.state == "rejected"
    assert sender.upload(photo, resume=tmp_path / "state").state == "ready"
    with pytest.raises(Rejected):
        sender.download(raised.value.file, tmp_path / "copy.jpg")


def test_another_declaration_does_not_resume_the_upload(
    sender: Client, photo: Path, tmp_path: Path
) -> None:
    before = keep_journal(sender, photo, tmp_path / "state", send_bytes=False)
    assert (
        sender.upload(photo, resume=tmp_path / "state", metadata={"album": "winter"}).id
        != before.id
    )


def test_a_second_run_at_the_same_time_is_refused(
    sender: Client, photo: Path, tmp_path: Path
) -> None:
    errors: list[Exception] = []

    def start_another(_: object) -> None:
        try:
            sender.upload(photo, resume=tmp_path / "state")
        except InProgress as error:
            errors.append(error)

    assert sender.upload(photo, resume=tmp_path / "state", progress=start_another).state == "ready"
    assert errors


def test_a_file_that_is_not_a_journal_is_not_changed(sender: Client, photo: Path) -> None:
    before = digest(photo)
    with pytest.raises(ValueError, match="not the state of an upload"):
        sender.upload(photo, resume=photo)
    assert digest(photo) == before


def test_the_journal_is_kept_when_the_server_is_unavailable(
    sender: Client, owner: Owner, photo: Path, tmp_path: Path, way: tuple[FaultyProxy, str]
) -> None:
    proxy, url = way
    proxy.fail()
    with (
        Client(url, owner.key, retry_seconds=0.5) as client,
        pytest.raises(ServerUnavailable, match="503"),
    ):
        client.upload(photo, resume=tmp_path / "state")
    assert (tmp_path / "state").exists()
    proxy.restore()
    with Client(url, owner.key) as client:
        assert client.upload(photo, resume=tmp_path / "state").hash == digest(photo)
    assert len(list(sender.list())) == 1
