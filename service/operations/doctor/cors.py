"""Pages of other origins than the store's: a browser asks the store whether they may upload, before it sends a byte.

1. The pages are those of ASSAY_CORS_ORIGINS and our own, at PUBLIC_URL. Neither is known: there is nothing to ask, and that is said.
2. A page whose origin is the store's public endpoint: a browser does not ask, so nor do we.
3. The others: the preflight (`OPTIONS`) that a browser sends before the PUT of an upload, at the public endpoint. Whoever answers without
   leave for the origin, PUT, or either header: a page's upload ends there. That fails for a page that is named, and is a warning for our
   own, which not everybody uses.
4. Leave was given: then the PUT itself, as the page sends it. Its answer names the origin too, or the page never learns how it ended.
   Nothing else of it has to be exposed: `complete` reads the parts' ETags from the store's own list.
5. The endpoint does not answer from here: a warning. Clients may stand where we do not.
"""

from typing import Final

from service.object_store import StoreError
from service.operations.doctor.anonymous_requests import Answer, send
from service.operations.doctor.finding import Finding, failed, ok, skipped, warning
from service.operations.doctor.probes import BODY, Url, upload_url
from service.resources import Resources
from service.settings import read_origin

NAME: Final = "CORS"
HEADERS: Final = ("content-type", "if-none-match")
"""What an upload sends that a page may not send unasked."""
ADVICE: Final = (
    "set MINIO_API_CORS_ALLOW_ORIGIN at the store to every page's origin, separated by commas (compose.yaml makes it of ASSAY_CORS_ORIGINS "
    "and ASSAY_PUBLIC_URL), and see that a proxy passes OPTIONS and the answer's Access-Control-* headers"
)


async def check_cors(resources: Resources) -> list[Finding]:
    settings = resources.settings
    origins = list(
        dict.fromkeys(
            [*settings.cors_origins, *([settings.page_origin] if settings.page_origin else [])]
        )
    )
    if not origins:
        return [
            skipped(NAME, "not asked: neither ASSAY_CORS_ORIGINS nor ASSAY_PUBLIC_URL names a page")
        ]
    return [await check_origin(resources, origin) for origin in origins]


async def check_origin(resources: Resources, origin: str) -> Finding:
    """One finding a page, which its name says."""
    name, endpoint = f"{NAME}: {origin}", resources.settings.public_endpoint
    if origin == read_origin(endpoint):
        return ok(name, "the store's origin is the page's: no browser asks")
    try:
        found = await find_fault(resources, origin)
    except StoreError as error:
        return warning(
            name, f"{endpoint} does not answer from here ({error})", "see that browsers reach it"
        )
    if not found:
        return ok(name, f"the page may upload to {endpoint}")
    return (failed if origin in resources.settings.cors_origins else warning)(
        name, f"{endpoint} {found}", ADVICE
    )


async def find_fault(resources: Resources, origin: str) -> str:
    """Why a page of that origin cannot upload; empty when it can. Raises StoreError."""
    async with upload_url(resources, BODY, signer=resources.signer) as url:
        asked = await ask_leave(url, origin)
        refused = find_refusal(asked, origin)
        if refused:
            return f"answers a browser's question {asked.status}, {refused}"
        answer = await url.send(BODY, {"Origin": origin})
    if not answer.accepts:
        return f"answers {answer.status} to an upload that says where its page is from"
    return (
        ""
        if names_origin(answer, origin)
        else "hides the answer to an upload from the page: no Access-Control-Allow-Origin"
    )


async def ask_leave(url: Url, origin: str) -> Answer:
    """As a browser does (Fetch standard, 4.9, CORS-preflight fetch): names in lower case, sorted, without spaces."""
    asked = {
        "Origin": origin,
        "Access-Control-Request-Method": "PUT",
        "Access-Control-Request-Headers": ",".join(HEADERS),
    }
    return await send("OPTIONS", url.put.url, headers=asked)


def find_refusal(answer: Answer, origin: str) -> str:
    """What the answer to the preflight lacks; empty when it gives leave."""
    if not 200 <= answer.status < 300:
        return "which is no leave"
    if not names_origin(answer, origin):
        return "without leave for this origin"
    if not allows(answer, "access-control-allow-methods", "PUT"):
        return "without leave for PUT"
    missing = [name for name in HEADERS if not allows(answer, "access-control-allow-headers", name)]
    return f"without leave for {', '.join(missing)}" if missing else ""


def names_origin(answer: Answer, origin: str) -> bool:
    return answer.headers.get("access-control-allow-origin") in ("*", origin)


def allows(answer: Answer, header: str, wanted: str) -> bool:
    """No credentials are sent, so `*` stands for everything that is needed here."""
    listed = {name.strip().lower() for name in answer.headers.get(header, "").split(",")}
    return not listed.isdisjoint({"*", wanted.lower()})
