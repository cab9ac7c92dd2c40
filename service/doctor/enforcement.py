"""What the store enforces on an upload URL: each promise is broken on purpose, as a client that holds the URL could.

Only the verification decides what a file is, so nothing here lets wrong bytes be served; but where the store lets something through,
its clients lose the first fence.
"""

import base64
import hashlib
import io
import re
import secrets
import tarfile
import zlib
from collections.abc import Awaitable, Callable, Mapping
from typing import Final

import msgspec

from service.doctor.finding import Finding, failed, ok, warning
from service.doctor.requests import Answer, send
from service.object_store import ObjectMissing
from service.presign import PresignedPut, Signer
from service.queries.files import ask_time
from service.resources import Resources

OTHER: Final = b"other than declared"
# In pieces with a checksum at the end, and with the headers by which it asks not to be compared with any signature.
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
"""As long as the pieces, so that a URL that is bound to its length takes them too."""
TYPE: Final = "text/plain"
URL_SECONDS: Final = 300
NEWER_STORE: Final = "run a store with its fixes: pgsty/silo RELEASE.2026-09-16 or newer"


class Url(msgspec.Struct, frozen=True):
    """One upload URL, as clients get them, bound to BODY, TYPE and `If-None-Match`; for a key that nobody else has."""

    resources: Resources
    key: str
    put: PresignedPut

    async def send(self, body: bytes, headers: Mapping[str, str] | None = None, *, url: str | None = None) -> Answer:
        return await send("PUT", url or self.put.url, body=body, headers={**self.put.headers, **(headers or {})})

    async def is_stored(self, key: str | None = None) -> bool:
        try:
            await self.resources.incoming.head(key or self.key)
        except ObjectMissing:
            return False
        return True


Breach = Callable[[Url], Awaitable[bool]]


async def send_other_length(url: Url) -> bool:
    return is_accepted(await url.send(BODY + b"!"))


async def send_other_type(url: Url) -> bool:
    return is_accepted(await url.send(BODY, {"Content-Type": "text/html"}))


async def send_other_bytes(url: Url) -> bool:
    return is_accepted(await url.send(OTHER.ljust(len(BODY))))


async def send_streaming_unsigned(url: Url) -> bool:
    return is_accepted(await url.send(PIECES, UNSIGNED))


async def send_without_signature(url: Url) -> bool:
    """CVE-2026-41145: nothing but the key id, which every URL shows."""
    unsigned = re.sub(r"X-Amz-Signature=[0-9a-f]{64}", "X-Amz-Signature=" + "0" * 64, url.put.url)
    return is_accepted(await url.send(PIECES, UNSIGNED, url=unsigned))


async def overwrite(url: Url) -> bool:
    await url.send(BODY)
    return is_accepted(await url.send(BODY))


async def copy_vault(url: Url) -> bool:
    """A copy that the store makes for whoever holds the URL, of an object that only we may read."""
    settings = url.resources.settings
    vault_key = f"assay-doctor-{secrets.token_hex(8)}"
    await url.resources.vault.put(vault_key, BODY, content_type=TYPE, metadata={}, tags={}, timeout_seconds=10)
    try:
        return is_accepted(await url.send(BODY, {"x-amz-copy-source": f"/{settings.vault_bucket}/{vault_key}"}))
    finally:
        await url.resources.vault.delete(vault_key)


def is_accepted(answer: Answer) -> bool:
    return answer.status == 200


class Promise(msgspec.Struct, frozen=True):
    """`breach` tries to break it and tells whether the store let it. `grave`: honest clients rely on it, or others' files are at stake."""

    name: str
    kept: str
    broken: str
    breach: Breach
    bound: bool = True
    grave: bool = False


PROMISES: Final = (
    Promise("URL: length", "another length is refused", "another length is stored", send_other_length, grave=True),
    Promise("URL: type", "another content type is refused", "another content type is stored", send_other_type, grave=True),
    Promise("URL: digest", "other bytes than declared are refused", "other bytes than declared are stored", send_other_bytes),
    Promise(
        "URL: streaming",
        "a body without a signature is refused",
        "a header switches the check of the SHA-256 off; the verification rejects such files",
        send_streaming_unsigned,
    ),
    Promise("URL: if-none-match", "a second PUT is refused", "a second PUT overwrites; the verification proves its own copy", overwrite),
    Promise("URL: copy", "no URL copies an object", "an upload URL copies objects out of the vault", copy_vault, bound=False, grave=True),
    Promise(
        "URL: signature",
        "a key id without a signature is refused",
        "the key id alone writes (CVE-2026-41145): whoever saw an upload URL writes to incoming for ever",
        send_without_signature,
        bound=False,
    ),
)


async def check_enforcement(resources: Resources) -> list[Finding]:
    return [*[await check_promise(resources, promise) for promise in PROMISES], await check_snowball(resources)]


async def check_promise(resources: Resources, promise: Promise) -> Finding:
    url = await make_url(resources, BODY if promise.bound else None)
    try:
        broken = await promise.breach(url)
    finally:
        await resources.incoming.delete(url.key)
    if not broken:
        return ok(promise.name, promise.kept)
    return (failed if promise.grave else warning)(promise.name, promise.broken, NEWER_STORE)


async def make_url(resources: Resources, body: bytes | None) -> Url:
    """`body` None: bound to no length, type or digest."""
    settings = resources.settings
    # By our own way to the store: whatever stands before the clients' one does not weaken what the store promises.
    signer = Signer(
        settings.s3_endpoint, access_key=settings.s3_signer_access_key, secret_key=settings.s3_signer_secret_key, region=settings.s3_region
    )
    key = f"assay-doctor-{secrets.token_hex(8)}"
    put = signer.presign_put(
        settings.incoming_bucket,
        key,
        size=None if body is None else len(body),
        content_type=None if body is None else TYPE,
        sha256=None if body is None else hashlib.sha256(body).hexdigest(),
        if_none_match=body is not None,
        issued_at=await ask_time(resources.pool),
        expires_in_seconds=URL_SECONDS,
    )
    return Url(resources, key, put)


async def check_snowball(resources: Resources) -> Finding:
    """A tar that the store unpacks, under keys of the sender's choice, from a URL that is bound to the tar's own digest."""
    unpacked = f"assay-doctor-{secrets.token_hex(8)}"
    body = make_tar(unpacked)
    url = await make_url(resources, body)
    try:
        await url.send(body, {"x-amz-meta-snowball-auto-extract": "true"})
        if not await url.is_stored(unpacked):
            return ok("URL: snowball", "no tar is unpacked")
    finally:
        await resources.incoming.delete_many([url.key, unpacked])
    return warning("URL: snowball", "a tar is unpacked: any upload URL writes any key in incoming", NEWER_STORE)


def make_tar(name: str) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        member = tarfile.TarInfo(name)
        member.size = len(BODY)
        tar.addfile(member, io.BytesIO(BODY))
    return buffer.getvalue()
