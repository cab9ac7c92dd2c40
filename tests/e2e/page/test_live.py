"""Tests of live updates, which each tab receives by one event stream that it can resume."""

from pathlib import Path

import httpx
import pytest
from playwright.async_api import BrowserContext, expect

from tests.e2e.conftest import Api, Owner
from tests.e2e.jobs import declare, prove, put
from tests.e2e.page.chosen import write_file
from tests.e2e.page.conftest import list_files, tab
from tests.e2e.page.screen import Screen
from tests.support.proxies import faulty_way
from tests.support.waiting import until

pytestmark = [pytest.mark.anyio, pytest.mark.one_store]

BODY = b"what was sent"


def streams(screen: Screen) -> int:
    return len([request for request in screen.requests if request.url == f"{screen.url}/events"])


async def test_changes_by_other_clients_appear_without_a_reload(
    signed_in: Screen, client: httpx.AsyncClient
) -> None:
    await expect(signed_in.page.locator("#teaching")).to_be_visible()
    declared = await declare(client, BODY, filename="elsewhere.txt")
    pill = signed_in.file("elsewhere.txt").locator(".pill")
    await expect(pill).to_have_text("Waiting for upload")
    await put(declared, BODY)
    await expect(pill).to_have_text("Ready")
    await expect(
        signed_in.file("elsewhere.txt").get_by_role("button", name="Download")
    ).to_be_visible()
    dialog = await signed_in.details("elsewhere.txt")
    await expect(dialog.locator(".history li")).not_to_have_count(0)
    await expect(dialog.locator(".history li").last).to_contain_text("Ready")
    await client.delete(f"/files/{declared['file']['id']}")
    await expect(dialog.locator(".pill").first).to_have_text("Deleted")
    await expect(signed_in.page.locator("#rows > tr")).to_have_count(0)


async def test_uploads_are_followed_by_one_stream_and_no_polling(
    signed_in: Screen, tmp_path: Path, client: httpx.AsyncClient
) -> None:
    await signed_in.choose(*[write_file(tmp_path / f"{number}.bin", 100) for number in range(10)])
    await signed_in.wait_for("ready", 10)
    assert streams(signed_in) == 1
    assert not [request.url for request in signed_in.requests if "wait=" in request.url]


async def test_a_broken_event_stream_resumes_after_the_last_event(
    api: Api, owner: Owner, context: BrowserContext, client: httpx.AsyncClient
) -> None:
    with faulty_way(api.url) as (proxy, url):
        async with tab(context, url) as screen:
            await screen.sign_in(owner.key)
            await prove(client, BODY, filename="before.txt")
            await expect(screen.file("before.txt").locator(".pill")).to_have_text("Ready")
            proxy.cut()
            await prove(client, BODY, filename="meanwhile.txt")
            proxy.restore()
            await expect(screen.file("meanwhile.txt").locator(".pill")).to_have_text("Ready")

            async def resumed() -> bool:
                return streams(screen) >= 2

            await until(resumed)
            last = [request for request in screen.requests if request.url == f"{url}/events"][-1]
            assert (await last.all_headers())["last-event-id"]
            assert len(await list_files(client)) == 2
