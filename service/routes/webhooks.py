"""`/webhooks/minio`: the store's events. Hints, never facts: an event's body is believed nothing but the key it names.

Everything behind an event that was not answered with 2xx waits, for ever if need be. So 204 is the answer to whatever the store sends,
also to the malformed, the unknown and the oversized; 401 to a wrong token, and 503 only when the database cannot take the arrival.
"""

import asyncio
import hmac
import re
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import unquote_plus

import asyncpg
import msgspec
import structlog
from litestar import Request, head, post
from litestar.di import NamedDependency
from litestar.exceptions import LitestarException
from litestar.openapi.datastructures import ResponseSpec
from litestar.openapi.spec import OpenAPIMediaType, OpenAPIType, Operation, RequestBody, Schema

from service import database
from service.problems import DatabaseUnavailable, Unauthorized
from service.resources import Resources
from service.routes.answers import refusals
from service.routes.requests import BODY_SECONDS
from service.telemetry.metrics import FOREIGN_OBJECTS, LAST_EVENT
from service.uploads import arrivals

WAIT_SECONDS: Final = 6.0
LARGEST_EVENT_BYTES: Final = 1024**2
CREATED: Final = frozenset(
    f"ObjectCreated:{how}" for how in ("Put", "Post", "CompleteMultipartUpload", "Copy")
)
"""The store's wildcard also announces tags and retention: those change no bytes."""
INCOMING_KEY: Final = re.compile(r"[0-9a-f]{32}")
SCRATCH_PREFIXES: Final = ("probe-", "assay-doctor-")
"""Objects of a worker's probe and of the doctor. No file names them, and they are deleted again."""

log = structlog.get_logger()


class Bucket(msgspec.Struct):
    name: str


class Object(msgspec.Struct):
    key: str


class Entity(msgspec.Struct):
    bucket: Bucket
    object: Object


class Record(msgspec.Struct, rename={"event_name": "eventName"}):
    event_name: str
    s3: Entity


class Event(msgspec.Struct, rename={"records": "Records"}):
    """As Amazon S3 writes its event messages, as far as we read them."""

    records: list[Record]


@dataclass
class AnyEvent(Operation):
    """An operation that takes whatever JSON the store sends."""

    def __post_init__(self) -> None:
        content = OpenAPIMediaType(schema=Schema(type=OpenAPIType.OBJECT))
        self.request_body = RequestBody(
            content={"application/json": content}, description="An S3 event message"
        )


@head("/webhooks/minio", status_code=204, include_in_schema=False)
async def probe_webhook() -> None:
    """Some stores ask at their start whether somebody is there, without a token."""


@post(
    "/webhooks/minio",
    status_code=204,
    operation_id="receiveEvent",
    operation_class=AnyEvent,
    summary="An event of the store",
    tags=["webhooks"],
    request_max_body_size=None,
    security=[{"webhook": []}],
    responses={
        204: ResponseSpec(None, description="Taken, or of no interest"),
        **refusals(Unauthorized, DatabaseUnavailable),
    },
)
async def receive_event(
    request: Request[Any, Any, Any], resources: NamedDependency[Resources]
) -> None:
    check_token(request.headers.get("authorization"), resources.settings.webhook_token)
    body = await read_event(request)
    LAST_EVENT.set_to_current_time()
    for key in find_keys(body, resources.settings.incoming_bucket):
        try:
            async with asyncio.timeout(WAIT_SECONDS):
                await arrivals.record_event(resources, key)
        except (asyncpg.PostgresError, *database.UNREACHABLE) as error:
            raise DatabaseUnavailable(
                "the arrival could not be written down: send the event again"
            ) from error


def check_token(header: str | None, tokens: tuple[str, ...]) -> None:
    """The store sends a token of one word as a bearer's, and one of two words as it is. Raises Unauthorized."""
    given = (header or "").encode()
    expected = [(token if " " in token else f"Bearer {token}").encode() for token in tokens]
    if not any([hmac.compare_digest(given, one) for one in expected]):  # noqa: C419  # a list: each is compared, whichever fits
        raise Unauthorized(
            "the webhook's token is wrong: the store's MINIO_NOTIFY_WEBHOOK_AUTH_TOKEN is not ASSAY_WEBHOOK_TOKEN"
        )


async def read_event(request: Request[Any, Any, Any]) -> bytes:
    """The body; empty when it is too large, was cut or does not end: it is read to its end all the same, and not kept."""
    body = bytearray()
    length = 0
    try:
        async with asyncio.timeout(BODY_SECONDS):
            async for chunk in request.stream():
                length += len(chunk)
                if length <= LARGEST_EVENT_BYTES:
                    body += chunk
    except (LitestarException, TimeoutError):
        return b""
    if length > LARGEST_EVENT_BYTES:
        log.warning("event passed over", why="too large", bytes=length)
        return b""
    return bytes(body)


def find_keys(body: bytes, bucket: str) -> list[str]:
    """The keys of ours that the event says were written; none when it is not such an event."""
    try:
        event = msgspec.json.decode(body, type=Event)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        log.warning("event passed over", why="malformed", bytes=len(body))
        return []
    keys = dict.fromkeys(
        unquote_plus(record.s3.object.key) for record in event.records if is_upload(record, bucket)
    )
    FOREIGN_OBJECTS.inc(
        sum(not (INCOMING_KEY.fullmatch(key) or key.startswith(SCRATCH_PREFIXES)) for key in keys)
    )
    return [key for key in keys if INCOMING_KEY.fullmatch(key)]


def is_upload(record: Record, bucket: str) -> bool:
    return record.event_name.removeprefix("s3:") in CREATED and record.s3.bucket.name == bucket
