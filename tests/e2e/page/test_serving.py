"""Tests of how the page is served: its files, its content security policy, and any base path."""

import re
from pathlib import Path

import httpx
import pytest
from playwright.async_api import BrowserContext

import service
from service.routes.page import MODULES, STYLES
from tests.e2e.conftest import Api, Owner
from tests.e2e.leaks import keep_link_secret
from tests.e2e.page.chosen import write_file
from tests.e2e.page.conftest import tab
from tests.support.proxies import faulty_way
from tests.support.servers import store_kinds

pytestmark = pytest.mark.anyio
# the serving of the page does not depend on the store
once = pytest.mark.parametrize("store", store_kinds()[:1], indirect=True)

WEB = Path(service.__file__).parent / "web"


@once
async def test_the_page_may_connect_only_to_its_own_api_and_the_store(
    api: Api, anonymous: httpx.AsyncClient
) -> None:
    answer = await anonymous.get(f"{api.url}/")
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    policy = dict(
        part.split(" ", 1) for part in answer.headers["content-security-policy"].split("; ")
    )
    assert policy["default-src"] == "'none'"
    assert policy["script-src"] == policy["style-src"] == "'self'"
    assert policy["connect-src"] == f"'self' {api.settings.public_endpoint}"
    assert policy["require-trusted-types-for"] == "'script'"
    assert answer.headers["referrer-policy"] == "no-referrer"
    assert answer.headers["x-content-type-options"] == "nosniff"


@once
async def test_the_page_is_served_with_any_query(api: Api, anonymous: httpx.AsyncClient) -> None:
    for path in ("/", "/page/style.css"):
        for method in ("GET", "HEAD"):
            answer = await anonymous.request(method, f"{api.url}{path}?utm_source=letter&v=2")
            assert answer.status_code == 200


@once
async def test_only_the_files_of_the_page_are_served(
    api: Api, anonymous: httpx.AsyncClient
) -> None:
    assert {path.name for path in WEB.glob("*.js")} == set(MODULES)
    assert {path.name for path in WEB.glob("*.css")} == set(STYLES)
    for name in (*STYLES, *MODULES):
        answer = await anonymous.get(f"{api.url}/page/{name}")
        assert answer.content == (WEB / name).read_bytes()
        assert (
            answer.headers["content-type"]
            == f"text/{'css' if name.endswith('css') else 'javascript'}; charset=utf-8"
        )
        assert answer.headers["cache-control"] == "no-cache"
    for name in ("index.html", "nothing.js", "swagger/start.js", "..%2findex.html"):
        assert (await anonymous.get(f"{api.url}/page/{name}")).status_code == 404


@once
@pytest.mark.parametrize("path", ["/", "/page/main.js", "/schema/start.js"])
async def test_an_unchanged_file_is_answered_with_304(
    api: Api, anonymous: httpx.AsyncClient, path: str
) -> None:
    first = await anonymous.get(api.url + path)
    again = await anonymous.get(api.url + path, headers={"If-None-Match": first.headers["etag"]})
    assert (again.status_code, again.content, again.headers["etag"]) == (
        304,
        b"",
        first.headers["etag"],
    )
    other = await anonymous.get(api.url + path, headers={"If-None-Match": '"another"'})
    assert (other.status_code, other.content) == (200, first.content)


@once
async def test_head_has_the_content_length_of_get(api: Api, anonymous: httpx.AsyncClient) -> None:
    head, get = await anonymous.head(f"{api.url}/"), await anonymous.get(f"{api.url}/")
    assert (head.status_code, head.content, head.headers["content-length"]) == (
        200,
        b"",
        str(len(get.content)),
    )


@once
async def test_the_page_is_not_part_of_the_openapi_document(
    api: Api, anonymous: httpx.AsyncClient
) -> None:
    paths = (await anonymous.get(f"{api.url}/schema/openapi.json")).json()["paths"]
    assert not [path for path in paths if path == "/" or path.startswith("/page")]


def test_no_file_has_inline_scripts_inline_styles_or_absolute_addresses() -> None:
    page = (WEB / "index.html").read_text()
    assert not re.findall(r"<script(?![^>]*\bsrc=)|<style|\sstyle=|\son[a-z]+=", page)
    for path in [WEB / "index.html", *WEB.glob("*.css"), *WEB.glob("*.js")]:
        text = path.read_text().replace("http://www.w3.org/2000/svg", "")
        assert not re.findall(r"(?:https?:)?//[a-z0-9.-]+\.[a-z]{2,}", text), path.name
        assert not re.findall(
            r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function", text
        ), path.name
        code = re.sub(r"/\*.*?\*/", "", text, flags=re.DOTALL)
        assert not re.findall(r"""["'`(]/(?:files|page|events|schema)\b""", code), (
            f"{path.name} names an absolute path"
        )
        assert len(text.splitlines()) <= 300, path.name


@once
async def test_the_page_works_below_a_path_that_a_proxy_adds(
    api: Api, owner: Owner, client: httpx.AsyncClient, context: BrowserContext, tmp_path: Path
) -> None:
    with faulty_way(api.url) as (proxy, url):
        proxy.prefix = b"/behind/a/proxy"
        async with tab(context, f"{url}/behind/a/proxy") as screen:
            await screen.sign_in(owner.key)
            await screen.choose(write_file(tmp_path / "below.txt", 10))
            await screen.wait_for("ready")
            async with screen.page.expect_download() as downloading:
                await screen.file("below.txt").get_by_role("button", name="Download").click()
            download = await downloading.value
            await download.save_as(tmp_path / "saved.txt")
            assert (tmp_path / "saved.txt").read_bytes() == (tmp_path / "below.txt").read_bytes()
            keep_link_secret(download.url)
            assert not [
                request.url
                for request in screen.requests
                if request.url.startswith(f"{url}/") and "/behind/" not in request.url
            ]
