"""The known attacks that write to an incoming key without permission, and writes by root.

The attacks use the file's own URL, a key id without a signature, or a tar that the store unpacks.
The service's URLs and policies prevent the last two. The tests therefore also run these two with
URLs that forbid no header and with root's key id, to which no policy applies. Objects that are
written in this way must do no harm.
"""

import asyncio
import io
import tarfile
from collections.abc import Mapping, Sequence
from typing import Any

import httpx

from service.object_store import Bucket
from service.object_store.presign import Signer
from service.resources import Resources
from tests.e2e.jobs import TEXT, declare, digest, find_key, open_upload, put
from tests.support.objects import put_as_root
from tests.support.presigned import SNOWBALL, content, forge, stream_unsigned
from tests.support.stores import now, send


async def write_through_every_hole(
    resources: Resources,
    client: httpx.AsyncClient,
    root: Signer,
    *,
    declared: Mapping[str, Any],
    body: bytes,
) -> Mapping[str, int]:
    """Try each attack that could write `body` to the file's incoming key.

    The attacker has the file's URL and may declare other files. Return the store's status for
    each attack.
    """
    key = await find_key(resources, declared)
    return {
        "the same URL": (await put(declared, body)).status,
        "no signature": await put_unsigned(
            root, resources.settings.incoming_bucket, key, body=body
        ),
        "snowball": await put_snowball(client, key, body, values=["", "true"], unbound=resources),
    }


async def put_unsigned(signer: Signer, bucket: str, key: str, *, body: bytes) -> int:
    """Send a PUT with the signer's key id but without a valid signature (CVE-2026-41145).

    Every presigned URL contains such a key id.
    """
    unsigned = (
        signer.presign("PUT", bucket, key=key, issued_at=now(), expires_in_seconds=60)[:-64]
        + "0" * 64
    )
    pieces, headers = stream_unsigned(body)
    return (
        await asyncio.to_thread(
            send, "PUT", unsigned, body=pieces, headers={"Content-Type": TEXT, **headers}
        )
    ).status


async def put_snowball(
    client: httpx.AsyncClient,
    key: str,
    body: bytes,
    *,
    values: Sequence[str] = ("true",),
    unbound: Resources | None = None,
) -> int:
    """Upload a tar for a file of the attacker, with a header that makes the store unpack it.

    The tar's member has the name of the attacked key. If `unbound` is given, the upload uses a URL
    that forbids no header.
    """
    archive = pack(key, body)
    declared = await declare(client, archive, sha256=digest(archive))
    by = declared if unbound is None else await open_upload(unbound, declared)
    return (await put(by, archive, [(SNOWBALL, value) for value in values])).status


def pack(name: str, body: bytes) -> bytes:
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        member = tarfile.TarInfo(name)
        member.size = len(body)
        tar.addfile(member, io.BytesIO(body))
    return archive.getvalue()


async def overwrite(
    resources: Resources,
    client: httpx.AsyncClient,
    root: Signer,
    *,
    declared: Mapping[str, Any],
    body: bytes,
    server: str,
) -> bool:
    """Try each attack, and return whether the file's incoming key now holds `body`.

    At least one attack succeeds on every store except silo.
    """
    answers = await write_through_every_hole(resources, client, root, declared=declared, body=body)
    opened = 200 in answers.values()
    assert opened or server == "silo", answers
    if opened:
        assert content(resources.incoming, await find_key(resources, declared)) == body
    return opened


def put_forged_as_root(root_incoming: Bucket, key: str, body: bytes) -> None:
    """Write an object as the store's root, with the ETag and the date of another object."""
    put_as_root(root_incoming, key, body, content_type=TEXT, **forge(now()))
