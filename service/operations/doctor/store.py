"""The store's two addresses, ours and the clients', and an upload as it should be through each."""

from contextlib import suppress
from typing import Final

import msgspec

from service.object_store import StoreError
from service.operations.doctor.absent_headers import SETTING, binding_signer, takes_upload
from service.operations.doctor.finding import Finding, failed, ok, warning
from service.operations.doctor.probes import BODY, upload_url
from service.resources import Resources, make_signer

PUBLIC_ADVICE: Final = "ASSAY_S3_PUBLIC_ENDPOINT must lead to the store itself, through nothing that changes Host, path or headers: upload URLs name it"
PARAMETERS: Final = "let the proxy before the store pass the query parameters by which URLs forbid headers: docs/deploy/nginx.conf lists them"


async def check_endpoint(resources: Resources) -> list[Finding]:
    endpoint = resources.settings.s3_endpoint
    try:
        await resources.store.check_health()
    except StoreError as error:
        if error.status not in (
            401,
            403,
        ):  # it serves, though not this identity: that is the next check's
            return [
                failed(
                    "endpoint",
                    f"{endpoint}: {error}",
                    "see whether the store runs and can serve, and ASSAY_S3_ENDPOINT",
                )
            ]
    return [ok("endpoint", f"{endpoint} serves")]


async def check_upload_url(resources: Resources) -> list[Finding]:
    """Where an honest upload is refused too, no refusal proves anything."""
    async with upload_url(resources, BODY) as url:
        answer = await url.send(BODY)
        is_readable = answer.accepts and await url.is_stored()
    if is_readable:
        return [ok("upload URL", "the store takes what was declared")]
    unbound = binding_signer(resources.settings, binds=False)
    if (
        answer.refuses
        and resources.settings.s3_bind_absent_headers
        and await takes_upload(resources, unbound)
    ):
        what = f"the store answers {answer.status} to a URL that forbids headers, and takes one that does not"
        return [
            failed(
                "upload URL",
                what,
                f"set {SETTING}=no: stores of other families than MinIO's need it",
            )
        ]
    advice = "see the lines about the clocks and the signer, and ASSAY_S3_REGION: clients' uploads end alike"
    return [
        failed(
            "upload URL",
            f"the store answers {answer.status} to an upload as it was declared",
            advice,
        )
    ]


async def check_public_endpoint(resources: Resources) -> list[Finding]:
    """Clients may stand where we do not: that it does not answer here proves nothing. Where it answers, it takes an upload."""
    name, endpoint = "public endpoint", resources.settings.public_endpoint
    async with upload_url(resources, BODY, signer=resources.signer) as url:
        try:
            answer = await url.send(BODY)
        except StoreError as error:
            return [
                warning(
                    name,
                    f"{endpoint} does not answer from here ({error})",
                    f"see that clients reach it; {PUBLIC_ADVICE}",
                )
            ]
        stored = answer.accepts and await url.is_stored()
    if stored:
        return [ok(name, f"{endpoint} takes an upload")]
    if (
        answer.refuses
        and resources.settings.s3_bind_absent_headers
        and await takes_unbound_upload(resources)
    ):
        what = f"{endpoint} answers {answer.status} to a URL that forbids headers, and takes one that does not"
        return [failed(name, what, PARAMETERS)]
    but = ", but nothing came to the store" if answer.accepts else ""
    return [
        failed(
            name,
            f"{endpoint} answers {answer.status} to an upload as it was declared{but}",
            PUBLIC_ADVICE,
        )
    ]


async def takes_unbound_upload(resources: Resources) -> bool:
    """Whether what stands before the store stops nothing but the binding."""
    signer = make_signer(msgspec.structs.replace(resources.settings, s3_bind_absent_headers=False))
    with suppress(StoreError):
        return await takes_upload(resources, signer)
    return False
