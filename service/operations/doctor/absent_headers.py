"""The check that shows whether upload URLs should forbid headers at this store. It sends an honest
PUT, with and without such a header.

MinIO and its forks take the value of a signed header from the query when the request does not have
it. Other stores take signed headers only from the headers, so that they refuse such a URL even to
honest clients.
"""

from typing import Final

import msgspec

from service.object_store.presign import ABSENT_FROM_PUT, Signer
from service.operations.doctor.finding import Finding, ok, warning
from service.operations.doctor.probes import BODY, internal_signer, upload_url
from service.resources import Resources
from service.settings import Settings

NAME: Final = "URL: absent headers"
SETTING: Final = "ASSAY_S3_BIND_ABSENT_HEADERS"
HEADER: Final = ("x-amz-tagging", "assay-doctor=1")


def binding_signer(settings: Settings, *, binds: bool) -> Signer:
    return internal_signer(msgspec.structs.replace(settings, s3_bind_absent_headers=binds))


async def takes_upload(resources: Resources, signer: Signer) -> bool:
    async with upload_url(resources, BODY, signer=signer) as url:
        return (await url.send(BODY)).accepts and await url.is_stored()


async def refuses_header(resources: Resources, signer: Signer) -> bool:
    async with upload_url(resources, BODY, signer=signer) as url:
        return (await url.send(BODY, more=[HEADER])).refuses


async def check_binding(resources: Resources) -> list[Finding]:
    """Compare the setting with what the store honours.

    The check of the upload URL finds a store that refuses URLs that forbid headers while the
    setting is on.
    """
    bound = binding_signer(resources.settings, binds=True)
    is_taken = await takes_upload(resources, bound)
    is_honoured = is_taken and await refuses_header(resources, bound)
    if resources.settings.s3_bind_absent_headers:
        if is_honoured:
            return [
                ok(
                    NAME,
                    f"URLs forbid {len(ABSENT_FROM_PUT.neutral)} headers,"
                    " and the store refuses a request that has one",
                )
            ]
        return [
            warning(
                NAME,
                "the store accepts URLs that forbid headers, and also requests with these headers",
                f"set {SETTING}=no, because the setting has no effect at this store",
            )
        ]
    if is_honoured:
        what = (
            f"{SETTING} is no, although this store honours URLs that forbid headers;"
            " clients can send these headers"
        )
        return [warning(NAME, what, f"set {SETTING}=yes")]
    return [
        ok(
            NAME,
            f"{SETTING} is no, as it must be: this store does not honour URLs that forbid headers",
        )
    ]
