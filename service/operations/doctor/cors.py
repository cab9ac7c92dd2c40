"""The check of uploads from pages of other origins.

A browser asks the store for permission before it sends such an upload.

1. The pages are those of ASSAY_CORS_ORIGINS, and Assay's own at PUBLIC_URL. Without PUBLIC_URL, the
   origin of Assay's own page is unknown. That is a warning if clients on other machines reach the
   store, because its list of origins then lacks the page. If there is no page to test, the check is
   skipped, and the finding says so.
2. If the store's public endpoint has the origin of the page, a browser does not ask, and the check
   sends nothing.
3. For other pages, the check sends the preflight (`OPTIONS`) of a browser to the public endpoint.
   If the response does not allow the origin, PUT, and both headers, the page cannot upload. The
   check then fails for a named page, and is a warning for Assay's own page, which is optional.
4. If the preflight is allowed, the check sends the PUT of the page. Its response must name the
   origin too, or the page cannot read the result. No other header has to be exposed, because
   `complete` reads the ETags of parts from the store's list.
5. If the endpoint does not answer from here, the finding is a warning, because clients may
   reach it.
"""

from ipaddress import ip_address
from typing import Final
from urllib.parse import urlsplit

from service.object_store import StoreError
from service.operations.doctor.anonymous_requests import Answer, send
from service.operations.doctor.finding import Finding, failed, ok, skipped, warning
from service.operations.doctor.probes import BODY, Url, upload_url
from service.resources import Resources
from service.settings import read_origin

NAME: Final = "CORS"
HEADERS: Final = ("content-type", "if-none-match")
"""The headers of an upload that need a permission."""
ADVICE: Final = (
    "set MINIO_API_CORS_ALLOW_ORIGIN at the store to the origins of all pages, separated by commas"
    " (compose.yaml takes them from ASSAY_CORS_ORIGINS and ASSAY_PUBLIC_URL), and check that"
    " proxies forward OPTIONS and the Access-Control-* headers of the response"
)


async def check_cors(resources: Resources) -> list[Finding]:
    settings = resources.settings
    origins = list(
        dict.fromkeys(
            [*settings.cors_origins, *([settings.page_origin] if settings.page_origin else [])]
        )
    )
    findings = [await check_origin(resources, origin) for origin in origins]
    if settings.public_url is None and reaches_other_machines(settings.s3_public_endpoint):
        findings.append(
            warning(
                NAME,
                "ASSAY_S3_PUBLIC_ENDPOINT is set and ASSAY_PUBLIC_URL is not,"
                " so Assay's own page cannot upload from another machine",
                "set ASSAY_PUBLIC_URL to the address of the API for clients, and allow its origin"
                " at the store (compose.yaml does the latter)",
            )
        )
    return findings or [
        skipped(NAME, "neither ASSAY_CORS_ORIGINS nor ASSAY_PUBLIC_URL names a page")
    ]


def reaches_other_machines(endpoint: str | None) -> bool:
    """Return whether the endpoint is set and is not a loopback address."""
    host = None if endpoint is None else urlsplit(endpoint).hostname
    if host is None or host == "localhost":
        return False
    try:
        return not ip_address(host).is_loopback
    except ValueError:
        return True


async def check_origin(resources: Resources, origin: str) -> Finding:
    name, endpoint = f"{NAME}: {origin}", resources.settings.public_endpoint
    if origin == read_origin(endpoint):
        return ok(name, "the store has the origin of the page, so browsers do not ask")
    try:
        found = await find_fault(resources, origin)
    except StoreError as error:
        return warning(
            name,
            f"{endpoint} does not answer from here ({error})",
            "check that browsers can reach it",
        )
    if not found:
        return ok(name, f"the page may upload to {endpoint}")
    return (failed if origin in resources.settings.cors_origins else warning)(
        name, f"{endpoint} {found}", ADVICE
    )


async def find_fault(resources: Resources, origin: str) -> str:
    """Return why a page of that origin cannot upload, or an empty text if it can.

    Raises StoreError.
    """
    async with upload_url(resources, BODY, signer=resources.signer) as url:
        asked = await ask_leave(url, origin)
        refused = find_refusal(asked, origin)
        if refused:
            return f"answers {asked.status} to a browser's preflight, {refused}"
        answer = await url.send(BODY, {"Origin": origin})
    if not answer.accepts:
        return f"answers {answer.status} to an upload with an Origin header"
    return (
        ""
        if names_origin(answer, origin)
        else "answers an upload without Access-Control-Allow-Origin, which hides the response"
    )


async def ask_leave(url: Url, origin: str) -> Answer:
    """Send the preflight of a browser (Fetch standard, CORS-preflight fetch).

    Its names of headers are in lower case, sorted, and without spaces.
    """
    asked = {
        "Origin": origin,
        "Access-Control-Request-Method": "PUT",
        "Access-Control-Request-Headers": ",".join(HEADERS),
    }
    return await send("OPTIONS", url.put.url, headers=asked)


def find_refusal(answer: Answer, origin: str) -> str:
    """Return what the response to the preflight lacks, or an empty text if it allows the upload."""
    if not 200 <= answer.status < 300:
        return "which allows nothing"
    if not names_origin(answer, origin):
        return "which does not allow this origin"
    if not allows(answer, "access-control-allow-methods", "PUT"):
        return "which does not allow PUT"
    missing = [name for name in HEADERS if not allows(answer, "access-control-allow-headers", name)]
    return f"which does not allow {', '.join(missing)}" if missing else ""


def names_origin(answer: Answer, origin: str) -> bool:
    return answer.headers.get("access-control-allow-origin") in ("*", origin)


def allows(answer: Answer, header: str, wanted: str) -> bool:
    """Return whether the header allows `wanted`.

    `*` allows everything, because no credentials are sent.
    """
    listed = {name.strip().lower() for name in answer.headers.get(header, "").split(",")}
    return not listed.isdisjoint({"*", wanted.lower()})
