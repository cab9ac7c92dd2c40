"""Tests of the page's accessibility: keyboard, screen reader, phone, dark scheme, motion."""

import importlib.resources
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Literal

import httpx
import pytest
from playwright.async_api import Browser, Locator, Page, ViewportSize, expect

from tests.e2e.conftest import Api, Owner
from tests.e2e.jobs import declare, prove
from tests.e2e.page.chosen import write_file
from tests.e2e.page.conftest import tab
from tests.e2e.page.screen import Screen
from tests.support.servers import store_kinds

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.parametrize("store", store_kinds()[:1], indirect=True),
]  # the page's accessibility does not depend on the store

BODY = b"what was sent"
DESK: ViewportSize = {"width": 1180, "height": 820}
PHONE: ViewportSize = {"width": 360, "height": 740}
SERIOUS = {"serious", "critical"}


async def check_with_axe(page: Page) -> None:
    """Check that axe-core reports no violation that is serious or critical."""
    await page.evaluate(
        (importlib.resources.files("axe_playwright_python") / "axe.min.js").read_text()
    )
    found: dict[str, Any] = await page.evaluate("axe.run(document, {resultTypes: ['violations']})")
    serious = [
        (one["id"], [node["html"] for node in one["nodes"]])
        for one in found["violations"]
        if one["impact"] in SERIOUS
    ]
    assert not serious
    assert found["passes"], "axe has checked nothing"


@pytest.fixture(params=["light", "dark", "phone"])
async def looked_at(
    request: pytest.FixtureRequest, browser: Browser, api: Api
) -> AsyncIterator[Screen]:
    """Yield the page in light, dark and phone layout, without its content security policy.

    The policy would block axe, which is not a script of the page.
    """
    context = await browser.new_context(
        viewport=PHONE if request.param == "phone" else DESK,
        color_scheme="dark" if request.param == "dark" else "light",
        bypass_csp=True,
    )
    async with tab(context, api.url) as screen:
        yield screen
    await context.close()


async def test_axe_finds_nothing_serious(
    looked_at: Screen, owner: Owner, client: httpx.AsyncClient, tmp_path: Path
) -> None:
    page = looked_at.page
    await looked_at.enter("no key")
    await expect(page.get_by_role("alert")).to_contain_text("not an API key")
    await check_with_axe(page)
    await looked_at.sign_in(owner.key)
    await expect(page.locator("#teaching")).to_be_visible()
    await check_with_axe(page)
    await declare(client, BODY, filename="waits.txt")
    await prove(client, BODY, filename="ready.txt")
    await looked_at.choose(
        write_file(tmp_path / "good.txt", 10), write_file(tmp_path / "bad\n.txt", 10)
    )
    await looked_at.wait_for("ready")
    await looked_at.wait_for("failed")
    await page.click("#reload")
    await expect(looked_at.file("ready.txt")).to_be_visible()
    await check_with_axe(page)
    await check_width(page)
    dialog = await looked_at.details("ready.txt")
    await dialog.get_by_role("button", name="Share a link").click()
    await check_with_axe(page)
    await check_width(page)
    await dialog.get_by_role("button", name="Delete").click()
    await expect(page.get_by_role("alertdialog")).to_be_visible()
    await check_with_axe(page)


async def check_width(page: Page) -> None:
    """Check that the page needs no horizontal scrolling."""
    assert await page.evaluate(
        "document.documentElement.scrollWidth <= document.documentElement.clientWidth"
    )
    controls = "[...document.querySelectorAll('#work button, #work input:not([type=file])')]"
    assert await page.evaluate(
        f"{controls}.every((control) => control.getBoundingClientRect().right <= innerWidth)"
    )


async def press(page: Page, *keys: str) -> None:
    for key in keys:
        await page.keyboard.press(key)


async def tab_to(page: Page, name: str) -> None:
    """Press Tab until the control with this name has the focus."""
    for _ in range(60):
        await page.keyboard.press("Tab")
        if (
            await page.evaluate(
                "document.activeElement.getAttribute('aria-label')"
                " ?? document.activeElement.textContent"
            )
            == name
        ):
            return
    raise AssertionError(f"the Tab key does not reach {name}")


async def open_focused(page: Page) -> Locator:
    """Open the dialog of the focused file, and wait for its actions.

    The actions appear after the server's response, which may come later than the next key press.
    """
    await press(page, "Enter")
    dialog = page.locator("#details")
    await expect(dialog.locator("#doing")).to_be_visible()
    return dialog


async def test_all_actions_are_available_by_keyboard(
    screen: Screen, owner: Owner, tmp_path: Path, client: httpx.AsyncClient
) -> None:
    page = screen.page
    # Playwright intercepts file choosers from here on. Later, the key press could come first.
    page.on("filechooser", lambda _: None)
    await expect(page.locator("#key")).to_be_focused()
    await page.keyboard.type(owner.key)
    await press(page, "Enter")
    await expect(page.locator("#choose-files")).to_be_focused()
    async with page.expect_file_chooser() as choosing:
        await press(page, "Enter")
    await (await choosing.value).set_files(write_file(tmp_path / "typed.txt", 100))
    await screen.wait_for("ready")
    await expect(screen.file("typed.txt").locator(".pill")).to_have_text("Ready")
    await tab_to(page, "typed.txt")
    dialog = await open_focused(page)
    await tab_to(page, "Rename")
    await press(page, "Enter")
    await expect(page.locator("#new-name")).to_be_focused()
    await press(page, "Control+a")
    await page.keyboard.type("renamed.txt")
    await press(page, "Enter")
    await expect(dialog.locator("h2")).to_have_text("renamed.txt")
    await expect(page.locator("#do-rename")).to_be_focused()
    await press(page, "Escape")
    await expect(dialog).to_be_hidden()
    await expect(
        screen.file("renamed.txt").get_by_role("button", name="renamed.txt", exact=True)
    ).to_be_focused()
    await open_focused(page)
    await tab_to(page, "Delete")
    await press(page, "Enter")
    await expect(page.locator("#confirm-no")).to_be_focused()
    await press(page, "Tab", "Enter")
    await expect(dialog).to_be_hidden()
    await expect(page.locator("#files-title")).to_be_focused()
    await expect(page.locator("#said")).to_have_text("renamed.txt was deleted")


async def test_screen_readers_announce_progress(signed_in: Screen, tmp_path: Path) -> None:
    said = signed_in.page.get_by_role("status").and_(signed_in.page.locator("#said"))
    paths = [write_file(tmp_path / f"{number}.txt", 10) for number in range(3)]
    await signed_in.choose(*paths)
    await expect(said).to_contain_text("proved and ready")
    await expect(
        signed_in.page.get_by_role("progressbar", name="Progress of all files")
    ).to_be_visible()
    await signed_in.choose(write_file(tmp_path / "bad\n.txt", 10))
    await expect(said).to_contain_text("failed")


SHIFTS = """() => {
    window.shifts = []
    new PerformanceObserver((list) => {
        for (const entry of list.getEntries()) if (!entry.hadRecentInput) shifts.push(entry.value)
    }).observe({type: "layout-shift", buffered: true})
}"""


async def test_the_layout_does_not_shift_while_files_are_sent(
    signed_in: Screen, tmp_path: Path
) -> None:
    await signed_in.choose(
        *[write_file(tmp_path / f"{number}.bin", 200_000) for number in range(20)]
    )
    await expect(signed_in.page.locator("#uploads > li")).to_have_count(20)
    await signed_in.page.evaluate(SHIFTS)
    await signed_in.wait_for("ready", 20)
    assert sum(await signed_in.page.evaluate("shifts.filter((value) => value > 0.001)")) < 0.02


async def test_progress_bars_never_go_back(signed_in: Screen, tmp_path: Path) -> None:
    await signed_in.page.evaluate(
        """() => {
            window.seen = []
            const look = () => {
                const bar = document.querySelector("#uploads progress")
                if (bar) seen.push(bar.value)
                requestAnimationFrame(look)
            }
            look()
        }"""
    )
    await signed_in.choose(write_file(tmp_path / "film.mp4", 100 * 1024**2))
    await signed_in.wait_for("ready")
    seen = await signed_in.page.evaluate("seen")
    assert seen == sorted(seen)
    assert len(set(seen)) > 3


async def test_reduced_motion_disables_transitions(signed_in: Screen) -> None:
    assert await signed_in.page.evaluate("matchMedia('(prefers-reduced-motion: reduce)').matches")
    assert (
        await signed_in.page.locator("#reload").evaluate(
            "element => getComputedStyle(element).transitionDuration"
        )
        == "0s"
    )


async def test_the_dark_scheme_has_a_dark_background(browser: Browser, api: Api) -> None:
    grounds = []
    schemes: tuple[Literal["light", "dark"], ...] = ("light", "dark")
    for scheme in schemes:
        context = await browser.new_context(color_scheme=scheme)
        async with tab(context, api.url) as screen:
            grounds.append(
                await screen.page.evaluate("getComputedStyle(document.body).backgroundColor")
            )
        await context.close()
    light, dark = (sum(int(part) for part in ground[4:-1].split(",")) for ground in grounds)
    assert light > 600
    assert dark < 150
