"""The page, with the actions of a user."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from playwright.async_api import Locator, Page, Request, expect

WAIT_MILLISECONDS = 60_000
"""The timeout of `expect`. The machine may be busy with other tests."""
expect.set_options(timeout=WAIT_MILLISECONDS)


@dataclass(frozen=True)
class Screen:
    """A tab, and the requests that it sent."""

    page: Page
    url: str
    requests: list[Request] = field(default_factory=list)

    async def open(self, fragment: str = "") -> None:
        await self.page.goto(f"{self.url}/{fragment}")

    async def sign_in(self, key: str, *, remember: bool = False) -> None:
        await self.enter(key, remember=remember)
        await expect(self.page.locator("#work")).to_be_visible()

    async def enter(self, key: str, *, remember: bool = False) -> None:
        await self.page.fill("#key", key)
        await self.page.set_checked("#remember", remember)
        await self.page.click("#sign-in-button")

    async def choose(self, *paths: Path) -> None:
        await self.page.set_input_files("#files-input", [str(path) for path in paths])

    async def choose_folder(self, path: Path) -> None:
        await self.page.set_input_files("#folder-input", str(path))

    def upload(self, name: str) -> Locator:
        return self.page.locator("#uploads > li").filter(
            has=self.page.locator(".name", has_text=name)
        )

    def uploads(self, state: str) -> Locator:
        return self.page.locator(f"#uploads > li[data-state={state}]")

    def file(self, name: str) -> Locator:
        return self.page.locator("#rows > tr").filter(has_text=name)

    async def wait_for(self, state: str, count: int = 1) -> None:
        await expect(self.uploads(state)).to_have_count(count)

    async def details(self, name: str) -> Locator:
        """Open the dialog of a listed file, and return it."""
        await self.file(name).get_by_role("button", name=name, exact=True).click()
        dialog = self.page.locator("#details")
        await expect(dialog.locator("#doing")).to_be_visible()
        return dialog

    def puts(self) -> list[Request]:
        """Return the requests that sent bytes to the store, in order."""
        return [request for request in self.requests if request.method == "PUT"]

    def declared(self) -> int:
        return len(
            [
                request
                for request in self.requests
                if request.method == "POST" and request.url == f"{self.url}/files"
            ]
        )


def part_numbers(requests: Iterable[Request]) -> list[int]:
    """Return the part number of each PUT of a part."""
    return [int(request.url.partition("partNumber=")[2].partition("&")[0]) for request in requests]
