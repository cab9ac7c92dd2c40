"""Checks of headers that a client adds to an upload, in every form, on URLs as the service signs
them.

A store that refuses one form of a header may act on another. Genuine MinIO, for example, refuses a
single `x-amz-meta-snowball-auto-extract: true`, but unpacks the tar if an empty header of that name
precedes it.

1. Each header is sent once, set or empty, and twice: empty and set, neutral and set, set twice. The
   honest upload, which has none of these headers, was sent before (see store.py).
2. If the store refuses the request, the check passes.
3. If the store accepts the request, the stored object is examined. The check fails only if
   the header has an effect, because a store may ignore a header.
4. If there is an effect, and clients use another endpoint on which the same forms have none, step 3
   of url_conditions.py applies.
"""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Final

import msgspec

from service.object_store import StoreError
from service.object_store.presign import ABSENT_FROM_PUT, UNSENDABLE, Signer
from service.operations.doctor.anonymous_requests import Answer, send
from service.operations.doctor.finding import Finding, failed, ok, warning
from service.operations.doctor.probes import BODY as VAULT_BODY
from service.operations.doctor.probes import (
    URL_SECONDS,
    Url,
    emptied,
    internal_signer,
    new_key,
    probe_object,
    upload_url,
)
from service.operations.doctor.url_conditions import (
    BEFORE_STORE,
    BODY,
    NEWER_STORE,
    have_other_way,
    make_tar,
    unproved,
)
from service.resources import Resources

ADVICE: Final = (
    f"set ASSAY_S3_BIND_ABSENT_HEADERS=yes if the store honours it; otherwise {NEWER_STORE}"
)


class Abuse(msgspec.Struct, frozen=True):
    """A header with a value that has an effect at some stores.

    It took effect if a HEAD of the object then shows `shown` in its header `seen_in`, and a HEAD of
    an honest upload does not.
    """

    header: str
    value: str
    seen_in: str
    shown: str


class Promise(msgspec.Struct, frozen=True):
    """A line of the report. Each of `abuses` could break the promise."""

    name: str
    kept: str
    broken: str
    abuses: tuple[Abuse, ...]
    advice: str = ADVICE


def list_promises() -> list[Promise]:
    """Return all promises.

    Dates are relative to now, because the lifecycle rule could remove an older object at once.
    """
    forged_date = datetime.now(UTC).replace(microsecond=0) - timedelta(days=1)
    return [
        Promise(
            "URL: ETag and date",
            "no client can choose the ETag or the date of its object",
            "a client can choose the ETag or the date of its object",
            (
                Abuse("x-minio-source-etag", "0" * 32, "etag", "0" * 32),
                Abuse(
                    "x-minio-source-mtime",
                    f"{forged_date:%Y-%m-%dT%H:%M:%SZ}",
                    "last-modified",
                    format_datetime(forged_date, usegmt=True),
                ),
            ),
        ),
        Promise(
            "URL: attributes",
            "no client can set tags, a storage class, an ACL, a redirect, a lock, encryption,"
            " an encoding or a disposition",
            "a client can set attributes of its object",
            (
                Abuse("x-amz-tagging", "assay-doctor=1", "x-amz-tagging-count", "1"),
                Abuse(
                    "x-amz-storage-class",
                    "REDUCED_REDUNDANCY",
                    "x-amz-storage-class",
                    "REDUCED_REDUNDANCY",
                ),
                Abuse("x-amz-acl", "public-read", PUBLIC, "200"),
                Abuse(
                    "x-amz-website-redirect-location",
                    "/assay-doctor",
                    "x-amz-website-redirect-location",
                    "/assay-doctor",
                ),
                Abuse(
                    "x-amz-object-lock-mode", "GOVERNANCE", "x-amz-object-lock-mode", "GOVERNANCE"
                ),
                # With the value ON, the probe object could not be deleted.
                Abuse("x-amz-object-lock-legal-hold", "OFF", "x-amz-object-lock-legal-hold", "OFF"),
                Abuse(
                    "x-amz-server-side-encryption",
                    "AES256",
                    "x-amz-server-side-encryption",
                    "AES256",
                ),
                Abuse("content-encoding", "gzip", "content-encoding", "gzip"),
                Abuse("content-disposition", "inline", "content-disposition", "inline"),
            ),
        ),
        Promise(
            "URL: framing",
            "no header makes the store take a different body than was sent",
            "a header makes the store take a different body than was sent",
            (
                Abuse("x-amz-decoded-content-length", "1", "content-length", "1"),
                Abuse("x-amz-trailer", "x-amz-checksum-crc32", "content-length", "0"),
            ),
        ),
        Promise(
            "URL: readable",
            "no client can make its object unreadable",
            "a client can make its own object unreadable; its file is then rejected as"
            " unverifiable, other files are not affected, and listings may fail",
            tuple(
                Abuse(f"x-minio-replication-{name}", "QUFB", UNREADABLE, "yes")
                for name in (
                    "server-side-encryption-sealed-key",
                    "server-side-encryption-seal-algorithm",
                    "server-side-encryption-iv",
                    "encrypted-multipart",
                )
            ),
            # A URL cannot forbid these: MinIO would take the neutral values from the query, and no
            # object would be readable.
            NEWER_STORE,
        ),
    ]


PUBLIC: Final = "status of a GET without a signature"
UNREADABLE: Final = "unreadable"
"""Two properties of an object that are compared in the same way as its headers."""


def list_forms(header: str, value: str) -> dict[str, list[str]]:
    """Return the values to send under this header, by the name of the form."""
    neutral = ABSENT_FROM_PUT.neutral.get(header, "")
    forms = {
        "set": [value],
        "empty": [""],
        "empty and set": ["", value],
        "set twice": [value, value],
    }
    if neutral not in ("", UNSENDABLE):
        forms["neutral and set"] = [neutral, value]
    return forms


async def check_unsigned_headers(resources: Resources) -> list[Finding]:
    return [
        await check_snowball(resources),
        await check_copy(resources),
        *[await check_promise(resources, one) for one in list_promises()],
    ]


class Outcome(msgspec.Struct, frozen=True):
    """The outcome of one promise at one endpoint.

    `doubtful` is a response that neither accepts nor refuses the request.
    """

    broken_by: list[str]
    doubtful: Answer | None = None


async def check_promise(resources: Resources, promise: Promise) -> Finding:
    outcome = await try_abuses(
        resources, promise.abuses, signer=internal_signer(resources.settings)
    )
    if outcome.doubtful is not None:
        return unproved(promise.name, outcome.doubtful)
    if not outcome.broken_by:
        return ok(promise.name, promise.kept)
    if await have_other_way(resources):
        with suppress(StoreError):
            there = await try_abuses(resources, promise.abuses, signer=resources.signer)
            if not there.broken_by and there.doubtful is None:
                return ok(promise.name, f"{promise.kept}, {BEFORE_STORE}")
    return warning(promise.name, describe(promise.broken, outcome.broken_by), promise.advice)


def describe(broken: str, forms: Sequence[str]) -> str:
    return f"{broken} ({'; '.join(forms)})"


async def try_abuses(resources: Resources, abuses: Sequence[Abuse], *, signer: Signer) -> Outcome:
    honest = await send_honestly(resources, signer)
    broken_by: list[str] = []
    for abuse in abuses:
        through = []
        for form, values in list_forms(abuse.header, abuse.value).items():
            answer, took_effect = await try_form(
                resources, abuse, values, signer=signer, honest=honest
            )
            if not (answer.accepts or answer.refuses or answer.status == NOT_IMPLEMENTED):
                return Outcome(broken_by, answer)
            if took_effect:
                through.append(form)
        if through:
            broken_by.append(f"{abuse.header}: {', '.join(through)}")
    return Outcome(broken_by)


NOT_IMPLEMENTED: Final = 501
"""MinIO's response to encryption if it has no keys, which is a refusal."""


async def send_honestly(resources: Resources, signer: Signer) -> Mapping[str, str]:
    async with upload_url(resources, BODY, binding="length", signer=signer) as url:
        return await look(url) if (await url.send(BODY)).accepts else {}


async def try_form(
    resources: Resources,
    abuse: Abuse,
    values: Sequence[str],
    *,
    signer: Signer,
    honest: Mapping[str, str],
) -> tuple[Answer, bool]:
    async with upload_url(resources, BODY, binding="length", signer=signer) as url:
        answer = await url.send(BODY, more=[(abuse.header, value) for value in values])
        if not answer.accepts:
            return answer, False
        found = await look(url)
        return answer, abuse.shown in found.get(
            abuse.seen_in, ""
        ) and abuse.shown not in honest.get(abuse.seen_in, "")


async def look(url: Url) -> Mapping[str, str]:
    """Return the headers of the stored object, with PUBLIC and UNREADABLE."""
    settings = url.resources.settings
    reader = Signer(
        settings.s3_endpoint,
        access_key=settings.s3_access_key,
        secret_key=settings.s3_secret_key,
        region=settings.s3_region,
    )
    address = reader.presign(
        "HEAD",
        settings.incoming_bucket,
        key=url.key,
        issued_at=datetime.now(UTC),
        expires_in_seconds=URL_SECONDS,
    )
    head = await send("HEAD", address)
    public = await send("GET", address.partition("?")[0])
    # An object that does not exist was not stored by the request: a proxy may answer 200 by itself.
    # MinIO answers 400, 206 or 200 with another length to a HEAD of an object that it takes for
    # encrypted.
    unreadable = head.status not in (200, 404) or (
        head.status == 200 and "content-length" in head.headers and not has_length(head, BODY)
    )
    return {**head.headers, PUBLIC: str(public.status), UNREADABLE: "yes" if unreadable else "no"}


def has_length(head: Answer, body: bytes) -> bool:
    return head.headers["content-length"] == str(len(body))


async def check_copy(resources: Resources) -> Finding:
    """Try a copy of an object that only the service may read, as the holder of a URL could."""
    name, kept, broken = (
        "URL: copy",
        "no URL copies an object",
        "an upload URL can copy objects out of the vault",
    )
    async with probe_object(resources.vault) as vault_key:
        source = f"/{resources.settings.vault_bucket}/{vault_key}"
        abuse = Abuse("x-amz-copy-source", source, "content-length", str(len(VAULT_BODY)))
        outcome = await try_abuses(resources, [abuse], signer=internal_signer(resources.settings))
    if outcome.doubtful is not None:
        return unproved(name, outcome.doubtful)
    if outcome.broken_by:
        return failed(
            name,
            describe(broken, outcome.broken_by),
            f"run `assay bootstrap`, because the signer must have only s3:PutObject; {ADVICE}",
        )
    return ok(name, kept)


async def check_snowball(resources: Resources) -> Finding:
    """Try to have a tar unpacked under chosen keys, with a URL that is bound to its digest."""
    name, kept = "URL: snowball", "no tar is unpacked"
    outcome = await try_tars(resources, internal_signer(resources.settings))
    if outcome.doubtful is not None:
        return unproved(name, outcome.doubtful)
    if not outcome.broken_by:
        return ok(name, kept)
    if await have_other_way(resources):
        with suppress(StoreError):
            there = await try_tars(resources, resources.signer)
            if not there.broken_by and there.doubtful is None:
                return ok(name, f"{kept}, {BEFORE_STORE}")
    return warning(
        name,
        describe(
            "a tar is unpacked: an upload URL can write any key in incoming", outcome.broken_by
        ),
        ADVICE,
    )


async def try_tars(resources: Resources, signer: Signer) -> Outcome:
    header, through = "x-amz-meta-snowball-auto-extract", []
    for form, values in list_forms(header, "true").items():
        answer, is_unpacked = await send_tar(
            resources, signer, values=[(header, value) for value in values]
        )
        if is_unpacked:
            through.append(form)
        elif not (answer.accepts or answer.refuses):
            return Outcome(through, answer)
    return Outcome([f"{header}: {', '.join(through)}"] if through else [])


async def send_tar(
    resources: Resources, signer: Signer, *, values: Sequence[tuple[str, str]]
) -> tuple[Answer, bool]:
    """Return the response, and whether the tar's member is now in the bucket."""
    unpacked = new_key()
    body = make_tar(unpacked)
    async with (
        upload_url(resources, body, signer=signer) as url,
        emptied(resources.incoming, unpacked),
    ):
        answer = await url.send(body, more=values)
        return answer, await url.is_stored(unpacked)
