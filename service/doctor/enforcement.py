"""What the store enforces on an upload URL: each promise is broken on purpose, as a client that holds the URL could.

Only the verification decides what a file is, so nothing here lets wrong bytes be served; but where the store lets something through,
its clients lose the first fence.
"""

import base64
import io
import re
import tarfile
import zlib
from collections.abc import Awaitable, Callable
from typing import Final

import msgspec

from service.doctor.finding import Finding, failed, ok, warning
from service.doctor.probes import Binding, Url, emptied, new_key, probe_object, upload_url
from service.doctor.requests import Answer
from service.object_store import StoreUnavailable
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
NEWER_STORE: Final = "run a store with its fixes: pgsty/silo RELEASE.2026-09-16 or newer"

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
    """CVE-2026-41145: nothing but the key id, which every URL shows."""
    unsigned = re.sub(r"X-Amz-Signature=[0-9a-f]{64}", "X-Amz-Signature=" + "0" * 64, url.put.url)
    return await url.send(PIECES, UNSIGNED, url=unsigned)


async def overwrite(url: Url) -> Answer:
    first = await url.send(BODY)
    if not first.accepts:
        raise StoreUnavailable(f"a first PUT is answered {first.status}", status=first.status)
    return await url.send(BODY)


async def copy_vault(url: Url) -> Answer:
    """A copy that the store makes for whoever holds the URL, of an object that only we may read."""
    async with probe_object(url.resources.vault) as vault_key:
        return await url.send(BODY, {"x-amz-copy-source": f"/{url.resources.settings.vault_bucket}/{vault_key}"})


class Promise(msgspec.Struct, frozen=True):
    """`breach` tries to break it, on a URL for BODY. `grave`: honest clients rely on it, or others' files are at stake."""

    name: str
    kept: str
    broken: str
    breach: Breach
    binding: Binding = "all"
    grave: bool = False


PROMISES: Final = (
    # Without a digest, which would refuse a body of another length too.
    Promise("URL: length", "another length is refused", "another length is stored", send_other_length, binding="length", grave=True),
    Promise("URL: type", "another content type is refused", "another content type is stored", send_other_type, grave=True),
    Promise("URL: digest", "other bytes than declared are refused", "other bytes than declared are stored", send_other_bytes),
    Promise(
        "URL: streaming",
        "a body without a signature is refused",
        "a header switches the check of the SHA-256 off; the verification rejects such files",
        send_streaming_unsigned,
    ),
    Promise("URL: if-none-match", "a second PUT is refused", "a second PUT overwrites; the verification proves its own copy", overwrite),
    Promise(
        "URL: copy",
        "no URL copies an object",
        "an upload URL copies objects out of the vault",
        copy_vault,
        binding="nothing",
        grave=True,
    ),
    Promise(
        "URL: signature",
        "a key id without a signature is refused",
        "the key id alone writes (CVE-2026-41145): whoever saw an upload URL writes to incoming for ever",
        send_without_signature,
        binding="nothing",
    ),
)


async def check_enforcement(resources: Resources) -> list[Finding]:
    return [*[await check_promise(resources, promise) for promise in PROMISES], await check_snowball(resources)]


async def check_promise(resources: Resources, promise: Promise) -> Finding:
    async with upload_url(resources, BODY, binding=promise.binding) as url:
        answer = await promise.breach(url)
    if answer.refuses:
        return ok(promise.name, promise.kept)
    if answer.accepts:
        return (failed if promise.grave else warning)(promise.name, promise.broken, NEWER_STORE)
    return unproved(promise.name, answer)


def unproved(name: str, answer: Answer) -> Finding:
    return failed(name, f"the store answers {answer.status}, which is neither yes nor no", "see the store's log, and ask again")


async def check_snowball(resources: Resources) -> Finding:
    """A tar that the store unpacks, under keys of the sender's choice, from a URL that is bound to the tar's own digest."""
    name, unpacked = "URL: snowball", new_key()
    body = make_tar(unpacked)
    async with upload_url(resources, body) as url, emptied(resources.incoming, unpacked):
        answer = await url.send(body, {"x-amz-meta-snowball-auto-extract": "true"})
        is_unpacked = await url.is_stored(unpacked)
    if is_unpacked:
        return warning(name, "a tar is unpacked: any upload URL writes any key in incoming", NEWER_STORE)
    return ok(name, "no tar is unpacked") if answer.accepts or answer.refuses else unproved(name, answer)


def make_tar(name: str) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        member = tarfile.TarInfo(name)
        member.size = len(BODY)
        tar.addfile(member, io.BytesIO(BODY))
    return buffer.getvalue()
