"""`/`: the web page. Its files use relative URLs, so that it works below any path of a proxy."""

from typing import Any, Final

from litestar import Request, Response, get
from litestar.di import NamedDependency

from service.resources import Resources
from service.routes.assets import answer_asset
from service.routes.checks import ANY_PARAMETER

STYLES: Final = ("controls.css", "dialogs.css", "files.css", "style.css", "uploads.css")
MODULES: Final = (
    "announcing.js",
    "api.js",
    "details.js",
    "digests.js",
    "downloads.js",
    "drop-place.js",
    "dropping.js",
    "elements.js",
    "events.js",
    "files.js",
    "fragment.js",
    "interrupted.js",
    "main.js",
    "resumable.js",
    "parts.js",
    "picture.js",
    "properties.js",
    "retries.js",
    "verification.js",
    "rows.js",
    "sending.js",
    "session.js",
    "sharing.js",
    "signing-in.js",
    "summary.js",
    "upload.js",
    "uploads.js",
    "words.js",
)
CONTENT_SECURITY_POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "connect-src 'self' STORE; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    "require-trusted-types-for 'script'; trusted-types 'none'"
)
HEADERS: Final = {
    "Cache-Control": "no-cache",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
}
ANY: Final = {ANY_PARAMETER: True}
"""Pages that link to this one, and caches, add parameters of their own."""


@get("/", include_in_schema=False, sync_to_thread=False, opt=ANY)
def read_page(
    request: Request[Any, Any, Any], resources: NamedDependency[Resources]
) -> Response[bytes]:
    """Return the page.

    Its policy lets it connect only to its own API and to the store of upload URLs.
    """
    policy = CONTENT_SECURITY_POLICY.replace("STORE", resources.settings.public_endpoint)
    return answer_asset(request, "index.html", HEADERS | {"Content-Security-Policy": policy})


@get(
    [f"/page/{name}" for name in (*STYLES, *MODULES)],
    include_in_schema=False,
    sync_to_thread=False,
    opt=ANY,
)
def read_page_file(request: Request[Any, Any, Any]) -> Response[bytes]:
    return answer_asset(request, request.scope["path"].rpartition("/")[2], HEADERS)
