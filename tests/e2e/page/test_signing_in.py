"""Tests of signing in: where the key is kept, which keys are refused, and revoked keys."""

from datetime import timedelta
from pathlib import Path

import httpx
import pytest
from playwright.async_api import BrowserContext, expect

from service.auth.principals import digest_key, make_key
from service.resources import Resources
from tests.e2e.conftest import Api, Owner, new_key, run_apart
from tests.e2e.jobs import digest
from tests.e2e.leaks import keep_secret
from tests.e2e.page.chosen import write_file
from tests.e2e.page.conftest import Cuttable, list_files, tab
from tests.e2e.page.screen import Screen
from tests.support.servers import store_kinds
from tests.support.trust import TRUSTED
from tests.support.waiting import until

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.parametrize("store", store_kinds()[:1], indirect=True),
]  # signing in does not depend on the store

PLACES = "() => [localStorage.length, sessionStorage.length, document.cookie]"


async def revoke(resources: Resources, owner: Owner) -> None:
    await resources.pool.execute(
        "UPDATE api_keys SET revoked_at = now() WHERE secret_sha256 = $1",
        digest_key(owner.key).digest,
    )


async def test_the_key_is_kept_for_this_tab_alone(
    signed_in: Screen, api: Api, context: BrowserContext
) -> None:
    assert await signed_in.page.evaluate(PLACES) == [0, 1, ""]
    await signed_in.page.reload()
    await expect(signed_in.page.locator("#work")).to_be_visible()
    async with tab(context, api.url) as other:
        await expect(other.page.locator("#sign-in")).to_be_visible()


async def test_the_key_can_be_remembered_on_the_device_until_sign_out(
    screen: Screen, api: Api, owner: Owner, context: BrowserContext
) -> None:
    await screen.sign_in(owner.key, remember=True)
    assert await screen.page.evaluate(PLACES) == [1, 0, ""]
    async with tab(context, api.url) as other:
        await expect(other.page.locator("#work")).to_be_visible()
        await other.page.click("#sign-out")
        await expect(other.page.locator("#sign-in")).to_be_visible()
        assert await other.page.evaluate(PLACES) == [0, 0, ""]


@pytest.mark.parametrize("text", ["", "password", "assay_short", "Bearer assay_" + "a" * 43])
async def test_text_that_is_not_a_key_is_refused_without_a_request(
    screen: Screen, text: str
) -> None:
    await screen.enter(text)
    await expect(screen.page.get_by_role("alert")).to_contain_text("not an API key")
    await expect(screen.page.locator("#key")).to_be_focused()
    assert not [
        request for request in screen.requests if request.url.startswith(f"{screen.url}/files")
    ]


async def test_an_unknown_key_is_refused_with_a_message(screen: Screen) -> None:
    key, _ = make_key()
    keep_secret([key])
    await screen.enter(key)
    await expect(screen.page.get_by_role("alert")).to_contain_text(
        "The server does not accept this key: it is wrong, was revoked, or has expired"
    )
    assert await screen.page.evaluate(PLACES) == [0, 0, ""]


async def test_a_revoked_key_and_an_expired_key_are_refused(
    screen: Screen, api: Api, owner: Owner, resources: Resources
) -> None:
    await revoke(resources, owner)
    expired = api.new_owner(expires_in=timedelta(seconds=-1))
    for key in (owner.key, expired.key):
        await screen.enter(key)
        await expect(screen.page.get_by_role("alert")).to_contain_text(
            "was revoked, or has expired"
        )
        await expect(screen.page.locator("#work")).to_be_hidden()


async def test_the_page_reports_that_a_saved_key_was_revoked(
    signed_in: Screen, owner: Owner, resources: Resources
) -> None:
    await revoke(resources, owner)
    await signed_in.page.reload()
    await expect(signed_in.page.get_by_role("alert")).to_contain_text("Your key no longer works")
    await expect(signed_in.page.locator("#key")).to_be_focused()
    assert await signed_in.page.evaluate(PLACES) == [0, 0, ""]


async def test_an_upload_continues_with_another_key_after_a_revocation(
    cuttable: Cuttable,
    api: Api,
    owner: Owner,
    tmp_path: Path,
    client: httpx.AsyncClient,
    resources: Resources,
) -> None:
    path = write_file(tmp_path / "film.mp4", 70 * 1024**2)
    screen = cuttable.screen
    cuttable.store.silence()
    await screen.choose(path)

    async def is_held() -> bool:
        return cuttable.store.held.is_set()

    await until(is_held)
    await revoke(resources, owner)
    cuttable.store.restore()
    await expect(screen.page.get_by_role("alert")).to_contain_text("to continue the uploads")
    other = run_apart(new_key(api.settings, owner.name, scopes=("read", "write"), expires_in=None))
    keep_secret([other])
    await screen.enter(other)
    await screen.wait_for("ready")
    async with httpx.AsyncClient(
        base_url=api.url, headers={"Authorization": f"Bearer {other}"}, verify=TRUSTED
    ) as renewed:
        [file] = await list_files(renewed)
    assert file["hash"] == digest(path.read_bytes())


async def test_the_page_reports_the_missing_scope_of_a_key(
    screen: Screen, api: Api, context: BrowserContext, tmp_path: Path
) -> None:
    path, film = write_file(tmp_path / "a.txt", 10), write_file(tmp_path / "film.mp4", 70 * 1024**2)
    await screen.sign_in(api.new_owner(scopes=("write",)).key)
    await expect(screen.page.locator("#files-said")).to_contain_text("lacks the scope read")
    await screen.choose(path, film)
    await screen.wait_for("ready", 2)
    async with tab(context, api.url) as reading:
        await reading.sign_in(api.new_owner(scopes=("read",)).key)
        await reading.choose(path)
        await reading.wait_for("failed")
        await expect(reading.upload("a.txt").locator(".status")).to_contain_text(
            "lacks the scope write"
        )
