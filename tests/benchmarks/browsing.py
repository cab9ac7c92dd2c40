"""An upload of 1 GiB from the page, in parts, some of them with digests, as the page chooses.

The reference is one `fetch` PUT of the same file in the same browser.
"""

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import httpx
from playwright.sync_api import Browser, Page, sync_playwright

from tests.benchmarks.figures import Figure, Series, compare_times
from tests.benchmarks.ground import GIB, Ground, NotPossible, Site
from tests.benchmarks.hand import check_answer
from tests.benchmarks.large import MIB, forget, make_file
from tests.e2e.page.chromium import QUIET, can_sandbox, find_chromium

SENT_MILLISECONDS = 600_000
WATCH = """() => {
    window.took = new Promise((resolve, reject) => {
        let begun = 0
        const input = document.querySelector("#files-input")
        input.addEventListener("change", () => { begun = performance.now() }, true)
        const look = () => {
            const row = document.querySelector("#uploads > li")
            if (!row) return
            const seconds = (performance.now() - begun) / 1000
            if (["proving", "ready"].includes(row.dataset.state)) resolve(seconds)
            if (row.dataset.state === "failed") reject(new Error(row.textContent))
        }
        const watched = {childList: true, subtree: true, attributes: true}
        new MutationObserver(look).observe(document.querySelector("#uploads"), watched)
    })
}"""
CHOOSE = """() => {
    const input = document.createElement("input")
    Object.assign(input, {type: "file", id: "plain"})
    document.body.append(input)
}"""
FETCH = """async (url) => {
    const body = document.querySelector("#plain").files[0]
    const begun = performance.now()
    const answer = await fetch(url, {method: "PUT", body})
    if (answer.status !== 200) {
        throw new Error(`the store answered ${answer.status}: ${await answer.text()}`)
    }
    return (performance.now() - begun) / 1000
}"""


def measure(ground: Ground) -> list[Figure]:
    """Compare the times from the choice of the file to the response of the last request.

    The last request is `complete` for the page, and the PUT itself for the reference.
    """
    size, rounds = ground.choose(GIB, 80 * MIB), ground.choose(5, 2)
    body = make_file(ground.folder / "page.bin", size)
    found: dict[str, list[float]] = {"page": [], "fetch": []}
    with ground.new_site() as site, running_browser() as browser:
        site.start_api()
        sides = {
            "page": partial(send_from_page, site, browser, body),
            "fetch": partial(send_plainly, site, browser, body),
        }
        for number in range(rounds + 1):
            for name in sides if number % 2 else reversed(list(sides)):
                os.sync()  # flush what the other side has written
                value = sides[name]()
                found[name] += [value] if number else []
    body.unlink()
    work = f"{size // MIB:,} MiB from the page in Chromium, in parts"
    against = "one `fetch` PUT of the same file in the same browser"
    return [
        compare_times(
            work, against, Series(tuple(found["page"])), Series(tuple(found["fetch"])), least=0.8
        )
    ]


@contextmanager
def running_browser() -> Iterator[Browser]:
    path = find_chromium()
    if path is None:
        raise NotPossible("The page is measured in Chromium: put `chromium` on the PATH.")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=path, args=list(QUIET), chromium_sandbox=can_sandbox()
        )
        yield browser
        browser.close()


@contextmanager
def new_tab(site: Site, browser: Browser) -> Iterator[Page]:
    """Yield the page in a new profile."""
    context = browser.new_context()
    page = context.new_page()
    page.set_default_timeout(SENT_MILLISECONDS)
    page.goto(f"{site.url}/")
    yield page
    context.close()


def send_from_page(site: Site, browser: Browser, body: Path) -> float:
    with new_tab(site, browser) as page:
        page.fill("#key", site.key)
        page.click("#sign-in-button")
        page.wait_for_selector("#work:not([hidden])")
        page.evaluate(WATCH)
        page.set_input_files("#files-input", str(body))
        took: float = page.evaluate("() => took")
        page.wait_for_selector("#uploads > li[data-state=ready]")
    [file] = site.call("GET", "/files")["files"]
    assert file["size"] == body.stat().st_size
    # Playwright's event loop runs in this thread, so asyncio.run() needs another one.
    with ThreadPoolExecutor(1) as thread:
        thread.submit(forget, site, file).result()
    return took


def send_plainly(site: Site, browser: Browser, body: Path) -> float:
    """Send the file by `fetch` from a page without a sign-in, whose policy permits the store."""
    with new_tab(site, browser) as page:
        page.evaluate(CHOOSE)
        page.set_input_files("#plain", str(body))
        took: float = page.evaluate(FETCH, site.hand.sign("PUT", "plain"))
    check_answer(httpx.delete(site.hand.sign("DELETE", "plain"), timeout=90), 204)
    return took
