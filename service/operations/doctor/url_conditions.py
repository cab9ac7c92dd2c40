"""Checks of what is enforced on an upload URL.

Each promise is broken on purpose, as the holder of a URL could break it.

Only the verification decides what is served, so that wrong bytes are never served even if a promise
is broken. But clients then lose the first check.

1. Each breach is tried at the store itself, past any proxy. If it is refused, the promise is kept.
2. If the store accepts a grave breach, the check fails, because a proxy is not enough against it.
3. If the store accepts another breach, and clients reach the store by another endpoint that accepts
   an honest upload, the breach is tried there too. If a proxy there refuses the breach or makes it
   harmless, the promise is kept as long as clients have no other access. The finding says so.
4. If the breach is accepted there too, or that endpoint does not answer clearly, the finding is a
   warning.
"""

import base64
import io
import re
import tarfile
import zlib
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Final

import msgspec

from service.object_store import StoreError, StoreUnavailable
from service.operations.doctor.anonymous_requests import Answer
from service.operations.doctor.finding import Finding, failed, ok, warning
from service.operations.doctor.probes import Binding, Url, upload_url
from service.resources import Resources

OTHER: Final = b"other than declared"
# A body in chunks with a checksum at the end, and the headers with which it asks for no comparison
# with a signature.
PIECES: Final = b"%x\r\n%b\r\n0\r\nx-amz-checksum-crc32:%b\r\n\r\n" % (
    len(OTHER),
    OTHER,
    base64.b64encode(zlib.crc32(OTHER).to_bytes(4, "big")),
)
UNSIGNED: Final = {
    "x-amz-content-sha256": "STREAMING-UNSIGNED-PAYLOAD-TRAILER",
    "x-amz-decoded-content-length": str(len(OTHER)),
    "x-amz-trailer": "x-amz-checksum-crc32",
}
BODY: Final = b"what was declared".ljust(len(PIECES))
"""The honest body.

It is as long as the chunks, so that a URL that binds the length accepts them too.
"""
BEFORE_STORE: Final = (
    "by a proxy before the store; the store itself accepts it, so clients must have no other access"
)
NEWER_STORE: Final = "run a store that has the fixes: pgsty/silo RELEASE.2026-09-16 or newer"
POLICY: Final = f"run `assay bootstrap`, whose policies refuse such bodies, or {NEWER_STORE}"

Breach = Callable[[Url], Awaitable[Answer]]


async def send_other_length(url: Url) -> Answer:
    return await url.send(BODY + b"!")


async def send_other_type(url: Url) -> Answer:
    return await url.send(BODY, {"Content-Type": "text/html"})


async def send_other_bytes(url: Url) -> Answer:
    return await url.send(OTHER.ljust(len(BODY)))


async def send_streaming_unsigned(url: Url) -> Answer:
    return await url.send(PIECES, UNSIGNED)


async def send_without_signature(url: Url) -> Answer:
    """Send a PUT with only the key id, which every URL shows (CVE-2026-41145)."""
    unsigned = re.sub(r"X-Amz-Signature=[0-9a-f]{64}", "X-Amz-Signature=" + "0" * 64, url.put.url)
    return await url.send(PIECES, UNSIGNED, url=unsigned)


async def overwrite(url: Url) -> Answer:
    first = await url.send(BODY)
    if not first.accepts:
        raise StoreUnavailable(
            f"the store answers a first PUT with {first.status}", status=first.status
        )
    return await url.send(BODY)


class Promise(msgspec.Struct, frozen=True):
    """A promise about URLs. `breach` tries to break it on a URL for BODY.

    A promise is `grave` if honest clients rely on it, or if other clients' files are at stake.
    """

    name: str
    kept: str
    broken: str
    breach: Breach
    binding: Binding = "all"
    grave: bool = False
    advice: str = NEWER_STORE


PROMISES: Final = (
    # This URL binds no digest, which would refuse a body of another length too.
    Promise(
        "URL: length",
        "a length other than the declared one is refused",
        "a length other than the declared one is stored",
        send_other_length,
        binding="length",
        grave=True,
    ),
    Promise(
        "URL: type",
        "a content type other than the declared one is refused",
        "a content type other than the declared one is stored",
        send_other_type,
        grave=True,
    ),
    Promise(
        "URL: digest",
        "bytes that differ from the declared digest are refused",
        "bytes that differ from the declared digest are stored",
        send_other_bytes,
    ),
    Promise(
        "URL: streaming",
        "a body without a signature is refused",
        "a header disables the check of the SHA-256; the verification rejects such files",
        send_streaming_unsigned,
        advice=POLICY,
    ),
    Promise(
        "URL: if-none-match",
        "a second PUT is refused",
        "a second PUT overwrites the object; the verification proves its own copy",
        overwrite,
    ),
    Promise(
        "URL: signature",
        "a key id without a signature is refused",
        "the key id alone is enough to write (CVE-2026-41145): a client that has seen an upload URL"
        " can always write to incoming",
        send_without_signature,
        binding="nothing",
        advice=POLICY,
    ),
)


async def check_enforcement(resources: Resources) -> list[Finding]:
    return [await check_promise(resources, promise) for promise in PROMISES]


async def check_promise(resources: Resources, promise: Promise) -> Finding:
    async with upload_url(resources, BODY, binding=promise.binding) as url:
        answer = await promise.breach(url)
    if answer.refuses:
        return ok(promise.name, promise.kept)
    if not answer.accepts:
        return unproved(promise.name, answer)
    if promise.grave:
        return failed(promise.name, promise.broken, promise.advice)
    if await stops_before_store(resources, promise):
        return ok(promise.name, f"{promise.kept}, {BEFORE_STORE}")
    return warning(promise.name, promise.broken, promise.advice)


async def stops_before_store(resources: Resources, promise: Promise) -> bool:
    """Return whether clients' own endpoint refuses a breach that the store accepts."""
    if not await have_other_way(resources):
        return False
    with suppress(StoreError):
        async with upload_url(
            resources, BODY, binding=promise.binding, signer=resources.signer
        ) as url:
            return (await promise.breach(url)).refuses
    return False


async def have_other_way(resources: Resources) -> bool:
    """Return whether clients use another endpoint, and whether it accepts an honest upload.

    If it refuses an honest upload, its refusal of a breach would prove nothing.
    """
    if resources.settings.public_endpoint == resources.settings.s3_endpoint:
        return False
    with suppress(StoreError):
        async with upload_url(resources, BODY, signer=resources.signer) as url:
            return (await url.send(BODY)).accepts and await url.is_stored()
    return False


def unproved(name: str, answer: Answer) -> Finding:
    return failed(
        name,
        f"the store answers {answer.status}, which neither accepts nor refuses the request",
        "check the store's log, and run the doctor again",
    )


def make_tar(name: str) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        member = tarfile.TarInfo(name)
        member.size = len(BODY)
        tar.addfile(member, io.BytesIO(BODY))
    return buffer.getvalue()
