"""Tests of the picture of an image file in its details."""

import asyncio
import base64
import struct
import zlib
from typing import Any, Final

import httpx
import pytest
from playwright.async_api import BrowserContext, Locator, Page, Request, Route, expect

from tests.e2e.conftest import Owner
from tests.e2e.jobs import declare, prove
from tests.e2e.page.screen import Screen

pytestmark = [pytest.mark.anyio, pytest.mark.one_store]

RED: Final = [255, 0, 0, 255]
SIDE: Final = 300
TOO_LARGE: Final = 20 * 1024**2 + 1


def make_png(width: int = SIDE, height: int = SIDE) -> bytes:
    """Return a red picture."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        checksum = zlib.crc32(kind + content)
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", checksum)

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    rows = (b"\0" + b"\xff\0\0" * width) * height
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )


def make_bmp() -> bytes:
    """Return a red picture of 4 by 4 pixels."""
    pixels = b"\0\0\xff" * 4 * 4
    header = struct.pack("<IiiHHIIiiII", 40, 4, 4, 1, 24, 0, len(pixels), 2835, 2835, 0, 0)
    return b"BM" + struct.pack("<IHHI", 54 + len(pixels), 0, 0, 54) + header + pixels


GIF: Final = (
    b"GIF89a\x01\x00\x01\x00\x80\x00\x00\xff\x00\x00\x00\x00\x00"
    b",\x00\x00\x00\x00\x01\x00\x01\x00\x00\x02\x02D\x01\x00;"
)
"""A red picture of one pixel."""


async def encode(page: Page, content_type: str) -> bytes:
    """Return a red picture that Chromium has encoded."""
    url: str = await page.evaluate(
        """(type) => {
            const canvas = document.createElement("canvas")
            const context = canvas.getContext("2d")
            context.fillStyle = "red"
            context.fillRect(0, 0, canvas.width, canvas.height)
            return canvas.toDataURL(type)
        }""",
        content_type,
    )
    head, _, text = url.partition(",")
    assert head == f"data:{content_type};base64"
    return base64.b64decode(text)


async def make_picture(page: Page, content_type: str) -> bytes:
    made = {"image/png": make_png(), "image/bmp": make_bmp(), "image/gif": GIF}
    return made.get(content_type) or await encode(page, content_type)


async def read_middle(picture: Locator) -> list[int]:
    """Return red, green, blue and alpha of the pixel in the middle."""
    pixel: list[int] = await picture.evaluate(
        """(canvas) => [...canvas.getContext("2d").getImageData(
            Math.floor(canvas.width / 2), Math.floor(canvas.height / 2), 1, 1).data]"""
    )
    return pixel


def list_reads(screen: Screen, file: dict[str, Any]) -> list[Request]:
    """Return the requests for the bytes of a file."""
    url = f"{screen.url}/files/{file['id']}"
    return [each for each in screen.requests if (each.method, each.url) == ("GET", url)]


@pytest.mark.parametrize(
    "content_type", ["image/png", "image/jpeg", "image/gif", "image/webp", "image/bmp"]
)
async def test_an_image_is_shown_as_a_small_picture(
    signed_in: Screen, client: httpx.AsyncClient, content_type: str
) -> None:
    body = await make_picture(signed_in.page, content_type)
    file = await prove(client, body, filename="<b>a.x", content_type=content_type)
    await signed_in.page.click("#reload")
    dialog = await signed_in.details("<b>a.x")
    picture = dialog.get_by_role("img", name="Picture of <b>a.x")
    await expect(picture).to_be_visible()
    red, green, blue, alpha = await read_middle(picture)
    assert (red > 250, green < 5, blue < 5, alpha) == (True, True, True, 255)
    [read] = list_reads(signed_in, file)
    assert (await read.all_headers())["authorization"].startswith("Bearer ")
    assert not [each.url for each in signed_in.requests if "/l/" in each.url]


async def test_a_large_picture_is_drawn_no_larger_than_its_box(
    screen: Screen, owner: Owner, client: httpx.AsyncClient
) -> None:
    await prove(client, make_png(3000, 40), filename="wide.png", content_type="image/png")
    await screen.sign_in(owner.key)
    dialog = await screen.details("wide.png")
    picture = dialog.get_by_role("img")
    await expect(picture).to_be_visible()
    assert await read_middle(picture) == RED
    assert await picture.evaluate("(canvas) => canvas.width <= canvas.parentElement.clientWidth")


@pytest.mark.parametrize(
    ("fields", "body"),
    [
        ({"content_type": "image/svg+xml"}, b'<svg xmlns="http://www.w3.org/2000/svg"/>'),
        ({"content_type": "text/plain"}, make_png()),
        ({}, make_png()),
        ({"content_type": "image/png"}, bytes(TOO_LARGE)),
    ],
    ids=["svg", "text", "no type", "too large"],
)
async def test_no_other_file_is_loaded_for_a_picture(
    screen: Screen,
    owner: Owner,
    client: httpx.AsyncClient,
    fields: dict[str, str],
    body: bytes,
) -> None:
    file = await prove(client, body, filename="other", **fields)
    await screen.sign_in(owner.key)
    dialog = await screen.details("other")
    await expect(dialog.locator(".picture")).to_have_count(0)
    assert not list_reads(screen, file)


async def test_a_file_that_is_not_ready_is_not_loaded(
    screen: Screen, owner: Owner, client: httpx.AsyncClient
) -> None:
    declared = await declare(client, make_png(), filename="a.png", content_type="image/png")
    await screen.sign_in(owner.key)
    dialog = await screen.details("a.png")
    await expect(dialog.locator(".picture")).to_have_count(0)
    assert not list_reads(screen, declared["file"])


@pytest.mark.parametrize("body", [b"no picture", b"", make_png()[:200]])
async def test_a_file_that_cannot_be_decoded_has_one_sentence(
    screen: Screen, owner: Owner, client: httpx.AsyncClient, body: bytes
) -> None:
    await prove(client, body, filename="a.png", content_type="image/png; a=b")
    await screen.sign_in(owner.key)
    box = (await screen.details("a.png")).locator(".picture")
    await expect(box).to_have_text("This browser cannot show this file as a picture.")
    await expect(box.get_by_role("img")).to_have_count(0)


async def test_a_failed_request_has_one_sentence(
    screen: Screen, owner: Owner, client: httpx.AsyncClient, context: BrowserContext
) -> None:
    file = await prove(client, make_png(), filename="a.png", content_type="image/png")

    async def fail(route: Route) -> None:
        await route.abort()

    await context.route(f"**/files/{file['id']}", fail)
    await screen.sign_in(owner.key)
    box = (await screen.details("a.png")).locator(".picture")
    await expect(box).to_contain_text("The picture could not be loaded. The server does not answer")


async def test_nothing_moves_when_the_picture_appears(
    screen: Screen, owner: Owner, client: httpx.AsyncClient, context: BrowserContext
) -> None:
    file = await prove(client, make_png(), filename="a.png", content_type="image/png")
    released = asyncio.Event()

    async def hold(route: Route) -> None:
        await released.wait()
        await route.continue_()

    await context.route(f"**/files/{file['id']}", hold)
    await screen.sign_in(owner.key)
    dialog = await screen.details("a.png")
    parts = dialog.locator("#doing, .picture, dl")
    await expect(parts).to_have_count(3)
    boxes = "(all) => all.map((part) => JSON.stringify(part.getBoundingClientRect()))"
    before = await parts.evaluate_all(boxes)
    released.set()
    await expect(dialog.get_by_role("img")).to_be_visible()
    assert await parts.evaluate_all(boxes) == before


async def test_closing_the_details_ends_the_request(
    screen: Screen, owner: Owner, client: httpx.AsyncClient, context: BrowserContext
) -> None:
    file = await prove(client, make_png(), filename="a.png", content_type="image/png")
    held = asyncio.Event()

    async def hold(_: Route) -> None:
        held.set()

    await context.route(f"**/files/{file['id']}", hold)
    await screen.sign_in(owner.key)
    await screen.details("a.png")
    await asyncio.wait_for(held.wait(), 60)
    async with screen.page.expect_event("requestfailed") as failing:
        await screen.page.keyboard.press("Escape")
    assert (await failing.value).url.endswith(file["id"])


async def test_the_picture_is_loaded_once_and_follows_a_new_name(
    screen: Screen, owner: Owner, client: httpx.AsyncClient
) -> None:
    file = await prove(client, make_png(), filename="a.png", content_type="image/png")
    await screen.sign_in(owner.key)
    dialog = await screen.details("a.png")
    await expect(dialog.get_by_role("img", name="Picture of a.png")).to_be_visible()
    await dialog.get_by_role("button", name="Rename").click()
    await dialog.locator("#new-name").fill("b.png")
    await screen.page.keyboard.press("Enter")
    await expect(dialog.get_by_role("img", name="Picture of b.png")).to_be_visible()
    assert len(list_reads(screen, file)) == 1
