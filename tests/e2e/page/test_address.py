"""Tests of the address that signs the page in, whose fragment holds the key and is removed."""

import pytest
from playwright.async_api import BrowserContext, Route, expect

from service.cli.dev_folder import make_page_address
from service.resources import Resources
from tests.e2e.conftest import Api, Owner
from tests.e2e.page.conftest import tab
from tests.e2e.page.screen import Screen

pytestmark = [pytest.mark.anyio, pytest.mark.one_store]

PLACES = "() => [localStorage.length, sessionStorage.length, document.cookie]"
KEY = "assay_" + "a" * 43


def fragment_of(key: str) -> str:
    return make_page_address("", key).removeprefix("/")


async def check_no_key_left(screen: Screen) -> None:
    """Check that neither the address nor an entry of the tab's history has a fragment."""
    assert screen.page.url == f"{screen.url}/"
    assert await screen.page.evaluate("location.href") == f"{screen.url}/"
    session = await screen.page.context.new_cdp_session(screen.page)
    entries = (await session.send("Page.getNavigationHistory"))["entries"]
    assert entries
    assert not [entry["url"] for entry in entries if "#" in entry["url"]]


def list_api_requests(screen: Screen) -> list[str]:
    return [
        request.url for request in screen.requests if request.url.startswith(f"{screen.url}/files")
    ]


async def test_the_address_signs_in_and_keeps_no_key(
    api: Api, owner: Owner, context: BrowserContext
) -> None:
    async with tab(context, api.url, fragment_of(owner.key)) as screen:
        await expect(screen.page.locator("#work")).to_be_visible()
        await expect(screen.page.locator("#signing-in")).to_be_hidden()
        await check_no_key_left(screen)
        assert await screen.page.evaluate(PLACES) == [0, 1, ""]
        assert list_api_requests(screen)
        await screen.page.reload()
        await expect(screen.page.locator("#work")).to_be_visible()
    async with tab(context, api.url) as other:
        await expect(other.page.locator("#sign-in")).to_be_visible()


async def test_a_fragment_is_removed_even_if_the_page_does_not_load(
    api: Api, owner: Owner, context: BrowserContext
) -> None:
    async def fail(route: Route) -> None:
        await route.abort()

    await context.route("**/page/api.js", fail)
    async with tab(context, api.url, fragment_of(owner.key)) as screen:
        await expect(screen.page.locator("#work")).to_be_hidden()
        await check_no_key_left(screen)
        assert await screen.page.evaluate(PLACES) == [0, 0, ""]


@pytest.mark.parametrize(
    "fragment",
    [
        "#key=",
        "#key=assay_short",
        f"#key={KEY}a",
        f"#key={KEY}%20",
        f"#key=Bearer%20{KEY}",
        f"#{KEY}",
        f"#KEY={KEY}",
        "#files",
    ],
)
async def test_a_malformed_fragment_is_removed_and_reported(
    api: Api, owner: Owner, context: BrowserContext, fragment: str
) -> None:
    async with tab(context, api.url, fragment) as screen:
        await expect(screen.page.get_by_role("alert")).to_contain_text(
            "must be #key=assay_ and 43 characters"
        )
        await expect(screen.page.locator("#key")).to_be_focused()
        await check_no_key_left(screen)
        assert not list_api_requests(screen)
        await screen.sign_in(owner.key)


async def test_an_address_pasted_into_the_open_page_signs_in(screen: Screen, owner: Owner) -> None:
    await screen.open("#key=assay_short")
    await expect(screen.page.get_by_role("alert")).to_contain_text("must be #key=assay_")
    await screen.open(fragment_of(owner.key))
    await expect(screen.page.locator("#work")).to_be_visible()
    await check_no_key_left(screen)


async def test_an_address_does_not_replace_the_key_of_the_page(
    signed_in: Screen, api: Api, owner: Owner
) -> None:
    page, other = signed_in.page, api.new_owner()
    stored = "() => sessionStorage.getItem('assay-key')"
    await signed_in.open(fragment_of(other.key))
    await expect(page.get_by_role("alert")).to_contain_text("another key than the one")
    await check_no_key_left(signed_in)
    assert await page.evaluate(stored) == owner.key
    await signed_in.open("#key=")
    await expect(page.get_by_role("alert")).to_contain_text("must be #key=assay_")
    await signed_in.open(fragment_of(owner.key))
    await expect(page.get_by_role("alert")).to_be_hidden()
    await check_no_key_left(signed_in)
    await page.click("#sign-out")
    await expect(page.locator("#sign-in")).to_be_visible()
    await signed_in.open(fragment_of(other.key))
    await expect(page.locator("#work")).to_be_visible()
    assert await page.evaluate(stored) == other.key


async def test_a_revoked_key_of_an_address_is_refused_with_a_message(
    api: Api, owner: Owner, context: BrowserContext, resources: Resources
) -> None:
    await resources.pool.execute("UPDATE api_keys SET revoked_at = now()")
    async with tab(context, api.url, fragment_of(owner.key)) as screen:
        await expect(screen.page.get_by_role("alert")).to_contain_text(
            "The server does not accept this key"
        )
        await check_no_key_left(screen)
        assert await screen.page.evaluate(PLACES) == [0, 0, ""]
