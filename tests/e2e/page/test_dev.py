"""The test of the address that `assay dev` prints: it opens the page, signed in."""

import re
import select
import subprocess
import sys
from pathlib import Path

import pytest
from playwright.async_api import BrowserContext, expect

from tests.e2e.commands import START_SECONDS, started, stop, wait_until_gone
from tests.e2e.leaks import keep_secret
from tests.e2e.page.chosen import write_file
from tests.e2e.page.conftest import tab
from tests.support.servers import reachable_folder, reserved_port

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.skipif(sys.platform != "linux", reason="reads /proc"),
]

README = (Path(__file__).parents[3] / "README.md").read_text(encoding="utf-8")
PATTERN = re.compile(r"(http://127\.0\.0\.1:\d+)/(#key=(assay_[A-Za-z0-9_-]{43}))(?!\S)")


def read_address(process: subprocess.Popen[str]) -> re.Match[str]:
    """Return the match of the address in the lines that `assay dev` prints when it is ready."""
    assert process.stdout is not None
    ready, _, _ = select.select([process.stdout], [], [], START_SECONDS)
    assert ready, "it did not start"
    for line in process.stdout:
        if match := PATTERN.search(line):
            keep_secret([match[3]])
            return match
    raise AssertionError("it printed no address with a key")


async def test_the_address_that_dev_prints_signs_the_page_in(
    context: BrowserContext, tmp_path: Path
) -> None:
    with reachable_folder() as folder, reserved_port() as port:
        arguments = ["dev", "--data", str(folder / "data"), "--port", str(port)]
        with started(arguments, folder / "log") as process:
            url, fragment, key = read_address(process).groups()
            shown = f"{url}/{fragment}".replace(f":{port}", ":8000").replace(key, "assay_…")
            assert f"`{shown}`" in README
            async with tab(context, url, fragment) as screen:
                await expect(screen.page.locator("#work")).to_be_visible()
                await screen.choose(write_file(tmp_path / "photo.jpg", 1000))
                await screen.wait_for("ready")
                assert screen.page.url == f"{url}/"
            assert stop(process) == 0
        wait_until_gone(folder)
