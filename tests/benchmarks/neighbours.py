"""Applications to compare with, which run under the server settings of Assay.

    python -m tests.benchmarks.neighbours bare|httptools|h11|assay|naive PORT

- `bare` is Litestar with a route that runs only the two statements of a declaration, and an empty
  route.
- `httptools`, `h11` and `assay` are Assay's own application over that protocol.
- `naive` is Assay's own application with a simple upload route in the same process.
"""

import asyncio
import hashlib
import io
import os
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from typing import Annotated, Any, cast
from urllib.parse import urlsplit
from uuid import UUID, uuid4

import msgspec
from litestar import Litestar, Request, get, post
from litestar.datastructures import UploadFile
from litestar.enums import RequestEncodingType
from litestar.params import Body
from litestar.types import Receive, Scope, Send
from minio import Minio

from service import database
from service.app import create_app
from service.auth.principals import digest_key
from service.cli.api import Server, make_config, reserve_port, run_api
from service.http.server.limits import make_limits
from service.queries import files, keys
from service.settings import Settings, read_settings
from service.telemetry.logs import configure_logs

PIECE_BYTES = 1024**2


class Declared(msgspec.Struct):
    filename: str
    size: int
    content_type: str


class Inserted(msgspec.Struct):
    id: UUID
    created_at: datetime


@get("/health/ready")
async def is_ready() -> dict[str, str]:
    return {"status": "ok"}


@get("/empty")
async def do_nothing() -> None:
    pass


@post("/declare")
async def declare_bare(request: Request[Any, Any, Any], data: Declared) -> Inserted:
    """Run the statements of a declaration, and return two columns of the row."""
    pool = request.app.state.pool
    grant = await pool.fetchrow(keys.FIND, digest_key(request.headers["authorization"][7:]).digest)
    ttl, grace = timedelta(hours=24), timedelta(minutes=15)
    row = await pool.fetchrow(
        files.DECLARE,
        uuid4(),
        grant["owner"],
        data.filename,
        data.size,
        data.content_type,
        None,
        {},
        uuid4().hex,
        ttl,
        grace,
        None,
    )
    return Inserted(row["id"], row["created_at"])


# The table has no triggers, so that no history is written.
CREATE_NAIVE_TABLE = "CREATE TABLE IF NOT EXISTS naive_files (LIKE files INCLUDING ALL)"
INSERT_NAIVELY = """
    INSERT INTO naive_files (id, owner, filename, size, content_type, metadata, state, hash,
        minio_object_name, vault_etag, upload_date, expires_at, grace_until, final_at)
    VALUES ($1, 'naive', $2, $3, $4, '{}', 'ready', $5, $6, $7, now(), now(), now(), now())
    RETURNING id, created_at
"""


@post("/naive/upload")
async def upload_naively(
    request: Request[Any, Any, Any],
    data: Annotated[UploadFile, Body(media_type=RequestEncodingType.MULTI_PART)],
) -> Inserted:
    """Read the whole form into memory, hash it, store it and insert a row, without any key."""
    content, name = await data.read(), uuid4()
    digest = hashlib.sha256(content).digest()
    store, settings = request.app.state.store, request.app.state.settings
    put = await asyncio.to_thread(
        store.put_object, settings.vault_bucket, str(name), io.BytesIO(content), len(content)
    )
    row = await request.app.state.pool.fetchrow(
        INSERT_NAIVELY,
        uuid4(),
        data.filename,
        len(content),
        data.content_type,
        digest,
        name,
        put.etag,
    )
    return Inserted(row["id"], row["created_at"])


@post("/naive/spooled", request_max_body_size=None)
async def upload_spooled(
    request: Request[Any, Any, Any],
    data: Annotated[UploadFile, Body(media_type=RequestEncodingType.MULTI_PART)],
) -> Inserted:
    """Spool the form to the disk, hash the file there, store it and insert a row."""
    file, name = data.file, uuid4()
    store, settings = request.app.state.store, request.app.state.settings

    def hash_and_put() -> tuple[int, bytes, str]:
        size = file.seek(0, os.SEEK_END)
        file.seek(0)
        digest = hashlib.sha256()
        while piece := file.read(PIECE_BYTES):
            digest.update(piece)
        file.seek(0)
        put = store.put_object(settings.vault_bucket, str(name), file, size)
        return size, digest.digest(), put.etag

    size, digest, etag = await asyncio.to_thread(hash_and_put)
    row = await request.app.state.pool.fetchrow(
        INSERT_NAIVELY, uuid4(), data.filename, size, data.content_type, digest, name, etag
    )
    return Inserted(row["id"], row["created_at"])


def make_application(settings: Settings, *handlers: Any) -> Litestar:
    @asynccontextmanager
    async def lifespan(app: Litestar) -> AsyncIterator[None]:
        app.state.settings = settings
        app.state.store = Minio(
            urlsplit(settings.s3_endpoint).netloc,
            access_key=settings.s3_access_key,
            secret_key=settings.s3_secret_key,
            region=settings.s3_region,
            secure=False,
        )
        async with await database.open_pool(settings) as app.state.pool:
            await app.state.pool.execute(CREATE_NAIVE_TABLE)
            yield

    return Litestar(
        route_handlers=list(handlers), lifespan=[lifespan], openapi_config=None, logging_config=None
    )


class SideBySide:
    """Two applications in one process: `/naive/…` goes to one, and all other paths to the other."""

    def __init__(self, naive: Litestar, assay: Litestar) -> None:
        self.naive = naive
        self.assay = assay

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if cast("str", scope["type"]) == "lifespan":
            async with self.naive.lifespan():
                await self.assay(scope, receive, send)
        else:
            await (self.naive if scope["path"].startswith("/naive/") else self.assay)(
                scope, receive, send
            )


def serve_by(protocol: str, settings: Settings, listener: socket.socket) -> None:
    """Run Assay's application without a worker, over uvicorn's protocol or over Assay's own."""
    config = make_config(create_app(settings), make_limits(settings))
    if protocol != "assay":
        config.http = cast("Any", protocol)
    Server(config, None).run(sockets=[listener])


def main(which: str, port: str) -> None:
    settings = read_settings(os.environ, Settings)
    configure_logs(settings.log_level)
    listener = reserve_port("127.0.0.1", int(port))
    if which in ("httptools", "h11", "assay"):
        serve_by(which, settings, listener)
    elif which == "bare":
        run_api(
            make_application(settings, is_ready, do_nothing, declare_bare),
            listener,
            make_limits(settings),
        )
    else:
        both = SideBySide(
            make_application(settings, upload_naively, upload_spooled), create_app(settings)
        )
        run_api(cast("Litestar", both), listener, make_limits(settings))


if __name__ == "__main__":
    main(*sys.argv[1:])
