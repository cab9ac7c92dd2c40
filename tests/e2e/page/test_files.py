"""Tests of the list of files, and of the actions on a file: rename, share, download, delete."""

from pathlib import Path
from typing import Any

import httpx
import pytest
from playwright.async_api import BrowserContext, expect

from service.resources import Resources
from tests.e2e.conftest import Api, Owner
from tests.e2e.jobs import complete, declare, digest, prove, put, stream
from tests.e2e.leaks import keep_link_secret
from tests.e2e.page.conftest import list_files, tab
from tests.e2e.page.screen import Screen

pytestmark = [pytest.mark.anyio, pytest.mark.one_store]

BODY = b"what was sent" * 1000


@pytest.fixture
async def ready(client: httpx.AsyncClient) -> dict[str, Any]:
    return await prove(
        client,
        BODY,
        filename="report.txt",
        metadata={
            "path": "work/2026/report.txt",
            "album": "<b>winter</b>",
            "mtime": "1700000000.123456789",
        },
    )


async def test_the_list_has_pages_in_both_directions(
    screen: Screen, owner: Owner, client: httpx.AsyncClient
) -> None:
    for number in range(60):
        await declare(client, BODY, filename=f"{number:02}.txt")
    await screen.sign_in(owner.key)
    rows = screen.page.locator("#rows > tr")
    await expect(rows).to_have_count(50)
    await expect(rows.first).to_contain_text("59.txt")
    await screen.page.click("#older")
    await expect(rows).to_have_count(10)
    await expect(screen.page.locator("#page-number")).to_have_text("Page 2")
    await expect(screen.page.locator("#older")).to_be_disabled()
    await screen.page.click("#newer")
    await expect(rows).to_have_count(50)
    await expect(screen.page.locator("#newer")).to_be_disabled()


async def test_the_list_can_be_searched_and_filtered(
    screen: Screen, owner: Owner, client: httpx.AsyncClient, ready: dict[str, Any]
) -> None:
    await declare(client, BODY, filename="résumé.pdf", content_type="application/pdf")
    await stream(client, BODY, "photo.jpg", content_type="image/jpeg")
    await screen.sign_in(owner.key)
    rows = screen.page.locator("#rows > tr")
    await expect(rows).to_have_count(3)
    await screen.page.fill("#by-name", "ré")
    await expect(rows).to_have_count(1)
    await expect(rows).to_contain_text("résumé.pdf")
    await screen.page.get_by_role("button", name="Clear", exact=True).click()
    await expect(rows).to_have_count(3)
    await screen.page.select_option("#by-state", "ready")
    await expect(rows).to_have_count(2)
    await screen.page.fill("#by-type", "image")
    await expect(screen.page.locator("#files-said")).to_contain_text("No file matches")
    await expect(rows).to_have_count(0)
    await screen.page.fill("#by-type", "image/jpeg")
    await expect(rows).to_have_count(1)
    await expect(rows).to_contain_text("photo.jpg")
    await screen.page.fill("#by-name", "nothing")
    await expect(screen.page.locator("#files-said")).to_contain_text("No file matches")
    await expect(rows).to_have_count(0)


async def test_a_listed_file_keeps_the_focus_when_the_list_changes(
    screen: Screen, owner: Owner, client: httpx.AsyncClient
) -> None:
    declared = await declare(client, BODY, filename="report.txt")
    await screen.sign_in(owner.key)
    opens = screen.file("report.txt").get_by_role("button", name="report.txt", exact=True)
    await opens.focus()
    await declare(client, BODY, filename="newer.txt")
    await expect(screen.page.locator("#rows > tr").first).to_contain_text("newer.txt")
    await expect(opens).to_be_focused()
    await put(declared, BODY)
    await complete(client, declared)
    await expect(screen.file("report.txt").locator(".pill")).to_have_text("Ready")
    await expect(opens).to_be_focused()
    await client.patch(f"/files/{declared['file']['id']}", json={"filename": "renamed.txt"})
    await stream(client, BODY, "newest.txt")
    await expect(screen.page.locator("#rows > tr").first).to_contain_text("newest.txt")
    renamed = screen.file("renamed.txt").get_by_role("button", name="renamed.txt", exact=True)
    await expect(renamed).to_be_focused()


async def test_an_owner_without_files_sees_the_introduction(signed_in: Screen) -> None:
    await expect(signed_in.page.locator("#teaching li")).to_have_count(3)
    await expect(signed_in.page.locator("#teaching")).to_be_visible()
    await expect(signed_in.page.locator("#listed")).to_be_hidden()


async def test_the_details_show_digest_and_metadata(
    screen: Screen, owner: Owner, context: BrowserContext, ready: dict[str, Any]
) -> None:
    await context.grant_permissions(["clipboard-read", "clipboard-write"])
    await screen.sign_in(owner.key)
    dialog = await screen.details("report.txt")
    await expect(dialog.locator("h2")).to_have_text("report.txt")
    await expect(dialog.locator("#digest")).to_have_text(digest(BODY))
    for text in (
        "13,000 bytes",
        "text/plain",
        "work/2026/report.txt",
        "<b>winter</b>",
        ready["id"],
    ):
        await expect(dialog).to_contain_text(text)
    modified = dialog.locator("dl > div").filter(has_text="Modified")
    await expect(modified).to_contain_text("Nov 14, 2023")
    await dialog.get_by_role("button", name="Copy the SHA-256").click()
    await expect(dialog.get_by_role("button", name="Copy the SHA-256")).to_have_text("Copied")
    assert await screen.page.evaluate("navigator.clipboard.readText()") == digest(BODY)


async def test_a_file_can_be_renamed(
    screen: Screen, owner: Owner, client: httpx.AsyncClient, ready: dict[str, Any]
) -> None:
    await screen.sign_in(owner.key)
    dialog = await screen.details("report.txt")
    await dialog.get_by_role("button", name="Rename").click()
    await expect(dialog.locator("#new-name")).to_be_focused()
    await dialog.locator("#new-name").fill("a/b")
    await screen.page.keyboard.press("Enter")
    await expect(dialog.locator("#details-said")).to_contain_text("path separator")
    await dialog.locator("#new-name").fill("summary.txt")
    await screen.page.keyboard.press("Enter")
    await expect(dialog.locator("h2")).to_have_text("summary.txt")
    assert [file["filename"] for file in await list_files(client)] == ["summary.txt"]
    await dialog.get_by_role("button", name="Close").click()
    await expect(screen.file("summary.txt")).to_be_visible()


async def test_a_link_works_without_a_key(
    screen: Screen,
    owner: Owner,
    anonymous: httpx.AsyncClient,
    client: httpx.AsyncClient,
    ready: dict[str, Any],
) -> None:
    await screen.sign_in(owner.key)
    dialog = await screen.details("report.txt")
    await dialog.get_by_role("button", name="Share a link").click()
    await dialog.get_by_label("Valid for").select_option("3600")
    await dialog.get_by_role("button", name="Create the link").click()
    await expect(dialog.locator("#link")).to_be_visible()
    url = await dialog.locator("#link").input_value()
    keep_link_secret(url)
    answer = await anonymous.get(url)
    assert (answer.status_code, answer.content) == (200, BODY)
    await client.delete(f"/files/{ready['id']}")
    assert (await anonymous.get(url)).status_code == 410


@pytest.mark.parametrize("place", ["list", "details"])
async def test_a_download_goes_straight_to_disk(
    screen: Screen, owner: Owner, client: httpx.AsyncClient, tmp_path: Path, place: str
) -> None:
    name = "<b>ä b</b>.txt".replace("/", "")
    await prove(client, BODY, filename=name)
    await screen.sign_in(owner.key)
    if place == "details":
        await screen.details(name)
    button = (
        screen.page.locator("#do-download")
        if place == "details"
        else screen.file(name).get_by_role("button", name="Download")
    )
    async with screen.page.expect_download() as downloading:
        await button.click()
    download = await downloading.value
    await download.save_as(tmp_path / "saved")
    assert (tmp_path / "saved").read_bytes() == BODY
    assert screen.page.url == f"{screen.url}/"
    assert "/l/" in download.url
    keep_link_secret(download.url)


async def test_a_file_is_deleted_only_after_confirmation(
    screen: Screen,
    owner: Owner,
    client: httpx.AsyncClient,
    resources: Resources,
    ready: dict[str, Any],
) -> None:
    await screen.sign_in(owner.key)
    dialog = await screen.details("report.txt")
    await dialog.get_by_role("button", name="Delete").click()
    asked = screen.page.get_by_role("alertdialog")
    await expect(asked).to_contain_text("report.txt can no longer be read")
    await expect(asked.get_by_role("button", name="Keep it")).to_be_focused()
    await screen.page.keyboard.press("Escape")
    await expect(asked).to_be_hidden()
    assert (await client.get(f"/files/{ready['id']}")).status_code == 200
    await dialog.get_by_role("button", name="Delete").click()
    await asked.get_by_role("button", name="Delete").click()
    await expect(dialog).to_be_hidden()
    await expect(screen.page.locator("#rows > tr")).to_have_count(0)
    assert (await client.get(f"/files/{ready['id']}")).status_code == 410
    assert (
        await resources.pool.fetchval("SELECT state FROM files WHERE id = $1", ready["id"])
        == "deleted"
    )


async def test_a_file_deleted_in_another_tab_disappears(
    screen: Screen, api: Api, owner: Owner, context: BrowserContext, ready: dict[str, Any]
) -> None:
    """Check that the file is no longer listed after an event or the next read of the list."""
    await screen.sign_in(owner.key)
    await expect(screen.file("report.txt")).to_be_visible()
    async with tab(context, api.url) as other:
        await other.sign_in(owner.key)
        dialog = await other.details("report.txt")
        await dialog.get_by_role("button", name="Delete").click()
        await other.page.get_by_role("alertdialog").get_by_role("button", name="Delete").click()
        await expect(dialog).to_be_hidden()
    await screen.page.click("#reload")
    await expect(screen.page.locator("#rows > tr")).to_have_count(0)
