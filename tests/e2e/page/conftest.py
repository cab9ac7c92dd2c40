"""Fixtures that open the page in headless Chromium.

If Chromium is not installed and cannot be installed, the tests are skipped. If CI is set, they
fail.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import httpx
import msgspec
import pytest
from playwright.async_api import Browser, BrowserContext, async_playwright

from service.settings import Settings, Url
from tests.e2e.conftest import Api, Owner, serving
from tests.e2e.page.chromium import QUIET, SHELL, can_sandbox, find_chromium
from tests.e2e.page.screen import Screen
from tests.support.programs import find_or_install, find_program
from tests.support.proxies import FaultyProxy, faulty_way

NAMED = "assay.test"
"""A host whose http origin browsers do not treat as secure, like a host on a LAN."""


@pytest.fixture(scope="session")
def chromium() -> str:
    shell = find_or_install(SHELL, SHELL)
    return str(shell or find_chromium() or find_program("chromium", "chromium"))


@pytest.fixture(scope="session")
async def browser(chromium: str) -> AsyncIterator[Browser]:
    arguments = [*QUIET, f"--host-resolver-rules=MAP {NAMED} 127.0.0.1"]
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(
            executable_path=chromium, args=arguments, chromium_sandbox=can_sandbox()
        )
        yield browser
        await browser.close()


@asynccontextmanager
async def tab(context: BrowserContext, url: str, fragment: str = "") -> AsyncIterator[Screen]:
    """Open the page in a tab, at an address with this fragment.

    At exit, check that the page raised no error, and that no URL contained a key.
    """
    page = await context.new_page()
    screen = Screen(page, url)
    errors: list[str] = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on(
        "console",
        lambda message: (
            errors.append(message.text) if "Content Security Policy" in message.text else None
        ),
    )
    # Playwright sets an attribute on the callback, which a bound method of a list does not accept.
    page.on(
        "request",
        lambda request: screen.requests.append(request),  # noqa: PLW0108  # see above
    )
    await screen.open(fragment)
    yield screen
    await page.close()
    assert not errors
    assert not [request.url for request in screen.requests if "assay_" in request.url]


@pytest.fixture
async def context(browser: Browser) -> AsyncIterator[BrowserContext]:
    """Yield a new browser profile."""
    context = await browser.new_context(
        viewport={"width": 1180, "height": 820}, accept_downloads=True, reduced_motion="reduce"
    )
    yield context
    await context.close()


@pytest.fixture
async def screen(api: Api, context: BrowserContext) -> AsyncIterator[Screen]:
    """Yield a tab in which no key has been entered."""
    async with tab(context, api.url) as screen:
        yield screen


@pytest.fixture
async def signed_in(screen: Screen, owner: Owner) -> Screen:
    await screen.sign_in(owner.key)
    return screen


@dataclass(frozen=True)
class Cuttable:
    """A tab whose connection to the store can be cut. Its connection to the API cannot."""

    screen: Screen
    store: FaultyProxy


def change(settings: Settings, endpoint: str) -> Settings:
    return msgspec.structs.replace(settings, s3_public_endpoint=Url(endpoint))


@pytest.fixture
async def cuttable(api: Api, owner: Owner, context: BrowserContext) -> AsyncIterator[Cuttable]:
    with (
        faulty_way(api.settings.public_endpoint) as (store, endpoint),
        serving(change(api.settings, endpoint), with_worker=False) as url,
    ):
        async with tab(context, url) as screen:
            await screen.sign_in(owner.key)
            yield Cuttable(screen, store)


async def list_files(client: httpx.AsyncClient, **filters: str) -> list[dict[str, object]]:
    answer = await client.get("/files", params={"limit": "1000", **filters})
    assert answer.status_code == 200, answer.text
    files: list[dict[str, object]] = answer.json()["files"]
    return files
