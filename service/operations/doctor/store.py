"""Checks of the store's two endpoints, the service's and the clients', and of an honest upload at
each.
"""

from contextlib import suppress
from typing import Final

import msgspec

from service.object_store import StoreError
from service.operations.doctor.absent_headers import SETTING, binding_signer, takes_upload
from service.operations.doctor.finding import Finding, failed, ok, warning
from service.operations.doctor.probes import BODY, upload_url
from service.resources import Resources, make_signer

PUBLIC_ADVICE: Final = (
    "upload URLs name ASSAY_S3_PUBLIC_ENDPOINT, so it must reach the store without a change of"
    " Host, path or headers"
)
PARAMETERS: Final = (
    "let the proxy before the store forward the query parameters by which URLs forbid headers;"
    " docs/deploy/nginx.conf lists them"
)


async def check_endpoint(resources: Resources) -> list[Finding]:
    endpoint = resources.settings.s3_endpoint
    try:
        await resources.store.check_health()
    except StoreError as error:
        if error.status not in (
            401,
            403,
        ):  # it serves, and the next check is about this identity
            return [
                failed(
                    "endpoint",
                    f"{endpoint}: {error}",
                    "check that the store runs and can serve requests, and check ASSAY_S3_ENDPOINT",
                )
            ]
    return [ok("endpoint", f"{endpoint} can serve requests")]


async def check_upload_url(resources: Resources) -> list[Finding]:
    """Check that an honest upload is accepted.

    Otherwise the refusals of later checks would prove nothing.
    """
    async with upload_url(resources, BODY) as url:
        answer = await url.send(BODY)
        is_readable = answer.accepts and await url.is_stored()
    if is_readable:
        return [ok("upload URL", "the store accepts an upload that matches its declaration")]
    unbound = binding_signer(resources.settings, binds=False)
    if (
        answer.refuses
        and resources.settings.s3_bind_absent_headers
        and await takes_upload(resources, unbound)
    ):
        what = (
            f"the store answers {answer.status} to a URL that forbids headers,"
            " and accepts one that does not"
        )
        return [
            failed(
                "upload URL",
                what,
                f"set {SETTING}=no, as stores other than MinIO and its forks need it",
            )
        ]
    advice = (
        "clients' uploads fail in the same way;"
        " see the lines about the clocks and the signer, and check ASSAY_S3_REGION"
    )
    return [
        failed(
            "upload URL",
            f"the store answers {answer.status} to an upload that matches its declaration",
            advice,
        )
    ]


async def check_public_endpoint(resources: Resources) -> list[Finding]:
    """Check an upload at the clients' endpoint.

    If it does not answer, that is a warning, because clients may reach it from elsewhere.
    """
    name, endpoint = "public endpoint", resources.settings.public_endpoint
    async with upload_url(resources, BODY, signer=resources.signer) as url:
        try:
            answer = await url.send(BODY)
        except StoreError as error:
            return [
                warning(
                    name,
                    f"{endpoint} cannot be reached from here ({error})",
                    f"check that clients can reach it; {PUBLIC_ADVICE}",
                )
            ]
        stored = answer.accepts and await url.is_stored()
    if stored:
        return [ok(name, f"{endpoint} accepts an upload")]
    if (
        answer.refuses
        and resources.settings.s3_bind_absent_headers
        and await takes_unbound_upload(resources)
    ):
        what = (
            f"{endpoint} answers {answer.status} to a URL that forbids headers,"
            " and accepts one that does not"
        )
        return [failed(name, what, PARAMETERS)]
    but = ", but nothing arrived at the store" if answer.accepts else ""
    return [
        failed(
            name,
            f"{endpoint} answers {answer.status} to an upload that matches its declaration{but}",
            PUBLIC_ADVICE,
        )
    ]


async def takes_unbound_upload(resources: Resources) -> bool:
    """Return whether an upload without forbidden headers is accepted at the clients' endpoint."""
    signer = make_signer(msgspec.structs.replace(resources.settings, s3_bind_absent_headers=False))
    with suppress(StoreError):
        return await takes_upload(resources, signer)
    return False
