"""The store's two addresses: ours and the clients'."""

from service.doctor.finding import Finding, failed, ok, warning
from service.doctor.requests import send
from service.object_store import StoreError
from service.resources import Resources


async def check_endpoints(resources: Resources) -> list[Finding]:
    return [await check_own_endpoint(resources), await check_public_endpoint(resources)]


async def check_own_endpoint(resources: Resources) -> Finding:
    endpoint = resources.settings.s3_endpoint
    try:
        await resources.store.check_health()
    except StoreError as error:
        return failed("endpoint", f"{endpoint}: {error}", "see whether the store runs and can serve, and ASSAY_S3_ENDPOINT")
    return ok("endpoint", f"{endpoint} serves")


async def check_public_endpoint(resources: Resources) -> Finding:
    """Clients may stand where we do not: that it does not answer here proves nothing."""
    endpoint = resources.settings.public_endpoint
    try:
        answer = await send("GET", f"{endpoint}/")
    except StoreError as error:
        return warning(
            "public endpoint",
            f"{endpoint} does not answer from here ({error})",
            "see that clients reach it: upload URLs name it (ASSAY_S3_PUBLIC_ENDPOINT)",
        )
    if answer.status >= 500:
        return failed("public endpoint", f"{endpoint} answers {answer.status}", "see what stands between clients and the store")
    return ok("public endpoint", f"{endpoint} answers")
