"""Tests of interrupted uploads: each continues, and only parts in flight are sent twice."""

import os
from collections import Counter
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import httpx
import msgspec
import pytest
from playwright.async_api import BrowserContext, JSHandle, Route, expect

from service.resources import Resources
from service.settings import Bytes
from tests.e2e.conftest import Api, Owner, serving
from tests.e2e.page.chosen import digest_file, write_file
from tests.e2e.page.conftest import Cuttable, list_files, tab
from tests.e2e.page.screen import WAIT_MILLISECONDS, Screen, part_numbers
from tests.support.proxies import FaultyProxy
from tests.support.waiting import until

pytestmark = [pytest.mark.anyio, pytest.mark.one_store]

MIB = 1024**2
IN_FLIGHT = 4
PARTS = 6


@pytest.fixture
def film(tmp_path: Path) -> Path:
    return write_file(tmp_path / "film.mp4", (16 * (PARTS - 1) + 3) * MIB)


async def stop_in_the_middle(cuttable: Cuttable, film: Path, client: httpx.AsyncClient) -> set[int]:
    """Choose the file, and silence the store after its responses to two parts.

    Return the numbers of the parts that the store has.
    """
    cuttable.store.silence_after_answers(2, b"etag:")
    await cuttable.screen.choose(film)

    async def is_silent() -> bool:
        return cuttable.store.silenced.is_set()

    await until(is_silent, seconds=60)
    return await stored(client)


async def stored(client: httpx.AsyncClient) -> set[int]:
    found: set[int] = set()
    for file in await list_files(client, state="pending"):
        answer = await client.get(f"/files/{file['id']}/parts")
        found |= {part["number"] for part in answer.json()["parts"]} if answer.is_success else set()
    return found


async def check_ready(screen: Screen, path: Path) -> None:
    await expect(screen.upload(path.name)).to_have_attribute(
        "data-state", "ready", timeout=2 * WAIT_MILLISECONDS
    )
    await expect(screen.upload(path.name).locator(".status")).to_contain_text(digest_file(path))


def sent_again(screen: Screen) -> Counter[int]:
    """Return for each part how often it was sent after the first time."""
    return Counter(part_numbers(screen.puts())) - Counter(range(1, PARTS + 1))


async def test_a_pause_keeps_what_was_sent_and_resume_sends_the_rest(
    cuttable: Cuttable, film: Path, client: httpx.AsyncClient
) -> None:
    screen = cuttable.screen
    there = await stop_in_the_middle(cuttable, film, client)
    row = screen.upload("film.mp4")
    await row.get_by_role("button", name="Pause").click()
    await expect(row.locator(".status")).to_contain_text("Paused")
    cuttable.store.cut()
    cuttable.store.restore()
    assert (await list_files(client))[0]["state"] == "pending"
    await row.get_by_role("button", name="Resume").click()
    await check_ready(screen, film)
    again = sent_again(screen)
    assert not there & set(again)
    assert again.total() <= IN_FLIGHT
    assert screen.declared() == 1


async def test_the_upload_of_a_file_resumes_after_a_reload(
    cuttable: Cuttable, film: Path, client: httpx.AsyncClient
) -> None:
    screen = cuttable.screen
    there = await stop_in_the_middle(cuttable, film, client)
    await screen.page.reload()
    cuttable.store.cut()
    cuttable.store.restore()
    await expect(screen.page.locator("#interrupted")).to_contain_text("film.mp4")
    await screen.choose(film)
    await check_ready(screen, film)
    await expect(screen.page.locator("#interrupted")).to_be_hidden()
    again = sent_again(screen)
    assert not there & set(again)
    assert again.total() <= IN_FLIGHT
    assert screen.declared() == 1


def write_anew(path: Path) -> None:
    """Replace the file's bytes without a change of its size and modification time."""
    before = path.stat()
    write_file(path, before.st_size)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


IS_SAMPLED = """() => new Promise((resolve) => {
    indexedDB.open("assay").onsuccess = ({target: {result: database}}) => {
        const uploads = database.transaction("uploads").objectStore("uploads")
        uploads.getAll().onsuccess = ({target: {result: entries}}) => {
            database.close()
            resolve(entries.some((entry) => entry.sample))
        }
    }
})"""
"""A script that returns whether the page has saved a digest of bytes that it sent."""


async def test_a_changed_file_of_the_same_name_size_and_time_is_detected(
    cuttable: Cuttable, film: Path, client: httpx.AsyncClient
) -> None:
    screen = cuttable.screen
    await stop_in_the_middle(cuttable, film, client)
    await until(lambda: screen.page.evaluate(IS_SAMPLED))
    await screen.page.reload()
    cuttable.store.cut()
    cuttable.store.restore()
    write_anew(film)
    notes = await record_statuses(screen)
    await screen.choose(film)
    await check_ready(screen, film)
    assert any("file has changed" in note for note in await notes.json_value())
    [file] = await list_files(client)
    assert file["hash"] == digest_file(film)
    assert screen.declared() == 2


RECORD = """() => {
    const seen = []
    const look = () => {
        for (const each of document.querySelectorAll("#uploads .status")) {
            seen.push(each.textContent)
        }
    }
    const changes = {childList: true, subtree: true, characterData: true}
    new MutationObserver(look).observe(document.querySelector("#uploads"), changes)
    return seen
}"""


async def record_statuses(screen: Screen) -> JSHandle:
    """Return a list in the page that collects every later status of the uploads."""
    return await screen.page.evaluate_handle(RECORD)


async def test_a_changed_file_is_sent_as_a_new_one_and_the_page_reports_it(
    cuttable: Cuttable, film: Path, client: httpx.AsyncClient
) -> None:
    screen = cuttable.screen
    await stop_in_the_middle(cuttable, film, client)
    await screen.page.reload()
    cuttable.store.cut()
    cuttable.store.restore()
    with film.open("ab") as file:
        file.write(b"more")
    notes = await record_statuses(screen)
    await screen.choose(film)
    await check_ready(screen, film)
    assert any("changed on this device" in note for note in await notes.json_value())


async def test_a_file_that_changes_while_it_is_sent_fails_with_a_message(
    cuttable: Cuttable, film: Path, client: httpx.AsyncClient
) -> None:
    screen = cuttable.screen
    await stop_in_the_middle(cuttable, film, client)
    with film.open("ab") as file:
        file.write(b"more")
    cuttable.store.cut()
    cuttable.store.restore()
    await screen.wait_for("failed")
    await expect(screen.upload("film.mp4").locator(".status")).to_contain_text(
        "changed, moved or removed"
    )


async def test_files_that_were_proved_before_a_reload_are_not_sent_again(
    signed_in: Screen, tmp_path: Path, client: httpx.AsyncClient
) -> None:
    paths = [write_file(tmp_path / "album" / f"{number}.bin", 100 + number) for number in range(3)]
    await signed_in.choose_folder(tmp_path / "album")
    await signed_in.wait_for("ready", 3)
    await signed_in.page.reload()
    sent = len(signed_in.puts())
    write_file(tmp_path / "album" / "new.bin", 50)
    await signed_in.choose_folder(tmp_path / "album")
    await signed_in.wait_for("ready", 4)
    assert len(signed_in.puts()) == sent + 1
    await expect(signed_in.upload("1.bin").locator(".status")).to_contain_text("already stored")
    await signed_in.upload("1.bin").get_by_role("button", name="Send again").click()
    await expect(signed_in.upload("1.bin").locator(".status")).to_have_text(
        f"Ready, SHA-256 {digest_file(paths[1])}"
    )
    assert len(await list_files(client)) == 5


async def test_a_small_file_declared_before_a_reload_is_not_declared_twice(
    cuttable: Cuttable, tmp_path: Path, client: httpx.AsyncClient
) -> None:
    path = write_file(tmp_path / "small.bin", 1 * MIB)
    cuttable.store.silence()
    await cuttable.screen.choose(path)
    await until(waiting(cuttable.store))
    await cuttable.screen.page.reload()
    cuttable.store.cut()
    cuttable.store.restore()
    await expect(cuttable.screen.page.locator("#interrupted")).to_contain_text("small.bin")
    await cuttable.screen.choose(path)
    await check_ready(cuttable.screen, path)
    assert len(await list_files(client)) == 1


def waiting(store: FaultyProxy) -> Callable[[], Awaitable[bool]]:
    async def held() -> bool:
        return store.held.is_set()

    return held


async def test_an_interrupted_upload_can_be_discarded(
    cuttable: Cuttable, film: Path, client: httpx.AsyncClient
) -> None:
    await stop_in_the_middle(cuttable, film, client)
    await cuttable.screen.page.reload()
    await cuttable.screen.page.get_by_role("button", name="Discard film.mp4").click()
    await expect(cuttable.screen.page.locator("#interrupted")).to_be_hidden()

    async def is_deleted() -> bool:
        return len(await list_files(client, state="deleted")) == 1

    await until(is_deleted)


async def test_the_page_reports_that_it_is_offline_and_then_continues(
    cuttable: Cuttable, film: Path, client: httpx.AsyncClient, context: BrowserContext
) -> None:
    await stop_in_the_middle(cuttable, film, client)
    await context.set_offline(True)
    cuttable.store.cut()
    await expect(cuttable.screen.upload("film.mp4").locator(".status")).to_contain_text("offline")
    cuttable.store.restore()
    await context.set_offline(False)
    await check_ready(cuttable.screen, film)
    assert sent_again(cuttable.screen).total() <= 2 * IN_FLIGHT


async def test_the_page_reports_an_unavailable_store_and_retries(
    cuttable: Cuttable, film: Path, client: httpx.AsyncClient
) -> None:
    """Cut the connections during a part, then let the store answer 503, then restore it."""
    await stop_in_the_middle(cuttable, film, client)
    cuttable.store.cut()
    await expect(cuttable.screen.upload("film.mp4").locator(".status")).to_contain_text(
        "Retrying automatically"
    )
    cuttable.store.restore()
    cuttable.store.fail()
    before = cuttable.store.connections

    async def asked_again() -> bool:
        return cuttable.store.connections > before + 1

    await until(asked_again, seconds=60)
    cuttable.store.restore()
    await check_ready(cuttable.screen, film)


@pytest.mark.parametrize("size", [1 * MIB, 20 * MIB], ids=["one PUT", "parts"])
async def test_an_expired_url_is_replaced_by_a_new_one(
    api: Api,
    owner: Owner,
    context: BrowserContext,
    tmp_path: Path,
    client: httpx.AsyncClient,
    size: int,
) -> None:
    path = write_file(tmp_path / "late.bin", size)
    settings = msgspec.structs.replace(
        api.settings, upload_url_ttl=timedelta(seconds=8), multipart_above=Bytes(8 * MIB)
    )
    late: list[str] = []

    async def hold_the_first(route: Route) -> None:
        if route.request.method == "PUT" and not late:
            late.append(route.request.url)
            await until(lambda: has_ended(late[0]))
        await route.continue_()

    with serving(settings, with_worker=False) as url:
        async with tab(context, url) as screen:
            await screen.page.route(f"{settings.public_endpoint}/**", hold_the_first)
            await screen.sign_in(owner.key)
            await screen.choose(path)
            await check_ready(screen, path)
            answers = {put.url: await put.response() for put in screen.puts()}
    refused = answers[late[0]]
    assert refused is not None
    assert refused.status == 403
    assert len(await list_files(client)) == 1


async def has_ended(url: str) -> bool:
    """Return whether the URL has expired. The store uses the clock of this machine."""
    query = parse_qs(urlsplit(url).query)
    issued_at = datetime.strptime(query["X-Amz-Date"][0], "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
    return datetime.now(UTC) > issued_at + timedelta(seconds=int(query["X-Amz-Expires"][0]) + 1)


async def test_a_lost_response_of_the_store_does_not_create_a_second_file(
    cuttable: Cuttable, tmp_path: Path, client: httpx.AsyncClient
) -> None:
    """Check that the page treats 412 for the repeated PUT as proof that the bytes have arrived."""
    path = write_file(tmp_path / "lost.bin", 1 * MIB)
    cuttable.store.silence_after(b"PUT ")
    await cuttable.screen.choose(path)

    async def is_there() -> bool:
        return bool(await list_files(client, state="ready"))

    await until(is_there, seconds=60)
    cuttable.store.cut()
    cuttable.store.restore()
    await check_ready(cuttable.screen, path)
    assert len(await list_files(client)) == 1


async def test_cancelling_an_upload_deletes_its_file(
    cuttable: Cuttable, film: Path, client: httpx.AsyncClient, resources: Resources
) -> None:
    await stop_in_the_middle(cuttable, film, client)
    await cuttable.screen.upload("film.mp4").get_by_role("button", name="Cancel").click()
    await expect(cuttable.screen.page.locator("#sending")).to_be_hidden()

    async def is_deleted() -> bool:
        return len(await list_files(client, state="deleted")) == 1

    await until(is_deleted)
    [file] = await list_files(client, state="deleted")
    assert (
        await resources.pool.fetchval("SELECT state FROM files WHERE id = $1", file["id"])
        == "deleted"
    )


async def test_a_rejected_upload_shows_the_reason(
    cuttable: Cuttable, tmp_path: Path, client: httpx.AsyncClient, resources: Resources
) -> None:
    """Change the declared digest before the bytes arrive."""
    cuttable.store.silence()
    await cuttable.screen.choose(write_file(tmp_path / "other.bin", 1000))
    await until(waiting(cuttable.store))
    [file] = await list_files(client)
    await resources.pool.execute(
        "UPDATE files SET declared_sha256 = $2 WHERE id = $1", file["id"], b"\0" * 32
    )
    cuttable.store.restore()
    await cuttable.screen.wait_for("rejected")
    await expect(cuttable.screen.upload("other.bin").locator(".status")).to_contain_text(
        "its SHA-256 differs"
    )
    dialog = await cuttable.screen.details("other.bin")
    await expect(dialog.locator(".failure")).to_contain_text("Send the file again")
