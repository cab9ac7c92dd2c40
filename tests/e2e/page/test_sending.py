"""Tests of uploads by the page: single files, folders, files in parts, and hostile names."""

import asyncio
import hashlib
from pathlib import Path

import httpx
import pytest
from playwright.async_api import BrowserContext, expect

from service.resources import Resources
from tests.e2e.conftest import Api, Owner
from tests.e2e.jobs import check_served, digest
from tests.e2e.page.chosen import write_file
from tests.e2e.page.conftest import NAMED, list_files, tab
from tests.e2e.page.screen import WAIT_MILLISECONDS, Screen, part_numbers

pytestmark = pytest.mark.anyio

MIB = 1024**2
HOSTILE = [
    "<img src=x onerror=alert(1)>.txt",
    '"><script>alert(1)</script>.txt'.replace("/", "\N{DIVISION SLASH}"),
    "photo\u202egpj.exe",
    "\N{PILE OF POO}" * 62 + "a.txt",
    "CON",
    "..\N{FULLWIDTH SOLIDUS}..\N{FULLWIDTH SOLIDUS}etc\N{FULLWIDTH SOLIDUS}passwd",
    "${7*7} %s {{x}}.txt",
]


async def test_a_file_is_sent_and_proved(
    signed_in: Screen, tmp_path: Path, client: httpx.AsyncClient, resources: Resources
) -> None:
    path = write_file(tmp_path / "a photo.jpg", 300_000)
    await signed_in.choose(path)
    await signed_in.wait_for("ready")
    row = signed_in.upload("a photo.jpg")
    await expect(row.locator(".status")).to_have_text(f"Ready, SHA-256 {digest(path.read_bytes())}")
    [file] = await list_files(client)
    assert file["declared_sha256"] == digest(path.read_bytes())
    assert file["content_type"] == "image/jpeg"
    await check_served(client, resources, {"file": file}, path.read_bytes())
    await expect(signed_in.file("a photo.jpg").locator(".pill")).to_have_text("Ready")


async def test_an_empty_file_is_sent(signed_in: Screen, tmp_path: Path) -> None:
    await signed_in.choose(write_file(tmp_path / "empty.txt", 0))
    await signed_in.wait_for("ready")
    await expect(signed_in.upload("empty.txt").locator(".status")).to_contain_text(digest(b""))


@pytest.mark.one_store
async def test_fifty_files_are_sent_and_proved(
    signed_in: Screen, tmp_path: Path, client: httpx.AsyncClient
) -> None:
    paths = [write_file(tmp_path / f"{number:02}.bin", 1000 + number) for number in range(50)]
    await signed_in.choose(*paths)
    await signed_in.wait_for("ready", 50)
    await expect(signed_in.page.locator("#all-text")).to_have_text("50 files · 50 ready")
    assert {file["filename"]: file["hash"] for file in await list_files(client, state="ready")} == {
        path.name: digest(path.read_bytes()) for path in paths
    }
    assert signed_in.declared() == 50
    await expect(signed_in.page.locator("#rows > tr")).to_have_count(50)


async def test_a_folder_keeps_its_paths(
    signed_in: Screen, tmp_path: Path, client: httpx.AsyncClient
) -> None:
    for name in ("album/one.jpg", "album/winter/one.jpg", "album/winter/north/two.jpg"):
        write_file(tmp_path / name, 100)
    await signed_in.choose_folder(tmp_path / "album")
    await signed_in.wait_for("ready", 3)
    found = {
        (file["filename"], file["metadata"]["path"])  # type: ignore[index]  # JSON, typed as object
        for file in await list_files(client)
    }
    assert found == {
        ("one.jpg", "album/one.jpg"),
        ("one.jpg", "album/winter/one.jpg"),
        ("two.jpg", "album/winter/north/two.jpg"),
    }
    await expect(signed_in.upload("two.jpg").locator(".folder")).to_have_text("album/winter/north/")


DROP = """async () => {
    const transfer = new DataTransfer()
    for (const name of ["dropped.txt", "second.txt"]) {
        transfer.items.add(new File(["what was dropped"], name, {type: "text/plain"}))
    }
    const options = {dataTransfer: transfer, bubbles: true, cancelable: true}
    const drop = (kind) => document.body.dispatchEvent(new DragEvent(kind, options))
    drop("dragover")
    const marked = document.body.classList.contains("over")
    drop("drop")
    return marked
}"""


async def test_files_can_be_dropped(signed_in: Screen) -> None:
    assert await signed_in.page.evaluate(DROP)
    await signed_in.wait_for("ready", 2)
    await expect(signed_in.upload("dropped.txt").locator(".status")).to_contain_text(
        digest(b"what was dropped")
    )


async def test_a_large_file_is_sent_in_parts_that_are_bound_to_their_digests(
    signed_in: Screen, tmp_path: Path, client: httpx.AsyncClient, resources: Resources
) -> None:
    path = await asyncio.to_thread(write_file, tmp_path / "film.mp4", 100 * MIB)
    # The store is on the same machine. On a slower line, the page finds digests cheap by itself.
    await signed_in.page.evaluate("() => { performance.now = () => 0 }")
    await signed_in.choose(path)
    row = signed_in.upload("film.mp4")
    await expect(row).to_have_attribute("data-state", "ready", timeout=3 * WAIT_MILLISECONDS)
    with path.open("rb") as file:
        proved = hashlib.file_digest(file, "sha256").hexdigest()
        file.seek(0)
        parts = [digest(piece) for piece in iter(lambda: file.read(16 * MIB), b"")]
    await expect(row.locator(".status")).to_have_text(f"Ready, SHA-256 {proved}")
    puts = signed_in.puts()
    assert sorted(part_numbers(puts)) == list(range(1, 8))
    for request, number in zip(puts, part_numbers(puts), strict=True):
        assert f"X-Amz-Content-Sha256={parts[number - 1]}" in request.url
        assert "authorization" not in await request.all_headers()
    [listed] = await list_files(client)
    state, size = await resources.pool.fetchrow(
        "SELECT state, size FROM files WHERE id = $1", listed["id"]
    )
    assert (state, size) == ("ready", 100 * MIB)


@pytest.mark.one_store
async def test_hostile_names_are_shown_as_plain_text(
    signed_in: Screen, tmp_path: Path, client: httpx.AsyncClient
) -> None:
    dialogs: list[str] = []
    signed_in.page.on("dialog", lambda dialog: dialogs.append(dialog.message))
    await signed_in.choose(*[write_file(tmp_path / name, 10) for name in HOSTILE])
    await signed_in.wait_for("ready", len(HOSTILE))
    assert {file["filename"] for file in await list_files(client)} == set(HOSTILE)
    await expect(signed_in.page.locator("#rows > tr")).to_have_count(len(HOSTILE))
    shown = set(await signed_in.page.locator("#rows bdi").all_text_contents())
    assert shown == {name.replace("\u202e", "[U+202E]") for name in HOSTILE}
    assert await signed_in.page.locator("#work img, #work script").count() == 0
    for name in await signed_in.page.locator("#rows bdi, #uploads .name").all():
        assert await name.evaluate("element => getComputedStyle(element).unicodeBidi") == "isolate"
    dialog = await signed_in.details(HOSTILE[0])
    await expect(dialog.locator("h2")).to_have_text(HOSTILE[0])
    assert dialogs == []


@pytest.mark.one_store
async def test_an_invalid_name_fails_with_a_message(signed_in: Screen, tmp_path: Path) -> None:
    await signed_in.choose(write_file(tmp_path / "a\r\nb.txt", 10))
    await signed_in.wait_for("failed")
    await expect(signed_in.uploads("failed").locator(".status")).to_have_text(
        "Failed: The file name contains a control character: send printable characters only."
        " Rename the file on this device, then choose it again."
    )


@pytest.mark.one_store
async def test_without_webcrypto_files_have_no_declared_digest(
    api: Api, owner: Owner, context: BrowserContext, tmp_path: Path, client: httpx.AsyncClient
) -> None:
    """Check that the page says so. Browsers provide WebCrypto only over https and on localhost."""
    path = write_file(tmp_path / "plain.bin", 70 * MIB)
    async with tab(context, api.url.replace("127.0.0.1", NAMED)) as screen:
        await screen.sign_in(owner.key)
        assert await screen.page.evaluate("crypto.subtle === undefined")
        await expect(screen.page.locator("#no-digests")).to_be_visible()
        await screen.choose(path)
        await screen.wait_for("ready")
        await expect(screen.upload("plain.bin").locator(".status")).to_contain_text(
            digest(path.read_bytes())
        )
        assert len(screen.puts()) == 5
        assert not [put.url for put in screen.puts() if "X-Amz-Content-Sha256" in put.url]
    [file] = await list_files(client)
    assert file["declared_sha256"] is None
