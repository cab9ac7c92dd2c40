"""Every way past a store's fences that is known: by a URL, by a key id, by a tar; and by root, which needs none.

The first two are shut by the URLs and policies of the service. They are tried past these too: by URLs that forbid no header, and by
root's key id, for which no policy holds. What gets into the bucket that way must do no harm.
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
    """Try to have `body` at the incoming key of a file, as one who has its URL and a file of their own; the store's answers."""
    key = await find_key(resources, declared)
    return {
        "the same URL": (await put(declared, body)).status,
        "no signature": await put_unsigned(
            root, resources.settings.incoming_bucket, key, body=body
        ),
        "snowball": await put_snowball(client, key, body, values=["", "true"], unbound=resources),
    }


async def put_unsigned(signer: Signer, bucket: str, key: str, *, body: bytes) -> int:
    """CVE-2026-41145: a key id, such as stands in every URL, and no signature."""
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
    """A tar for a file of one's own, which the store unpacks over another key. `unbound`: by a URL that forbids no header."""
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
    """Through every hole; whether `body` lies there now. One is open in each of the servers that are known to have any."""
    answers = await write_through_every_hole(resources, client, root, declared=declared, body=body)
    opened = 200 in answers.values()
    assert opened or server == "silo", answers
    if opened:
        assert content(resources.incoming, await find_key(resources, declared)) == body
    return opened


def put_forged_as_root(root_incoming: Bucket, key: str, body: bytes) -> None:
    """Write an object as the store's root, with the ETag and the date of another object."""
    put_as_root(root_incoming, key, body, content_type=TEXT, **forge(now()))
