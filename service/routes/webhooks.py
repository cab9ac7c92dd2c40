"""`/webhooks/minio`: the store's events. They are hints, and only the key in an event is used.

The store retries an event until it gets a 2xx, and delivers no later event before that. The route
therefore answers 204 to every event, including malformed, unknown and oversized ones. It answers
401 to a wrong token, and 503 only when the database cannot record the arrival.

See docs/architecture.md, "3. Arrival".
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
from service.problems import DatabaseUnavailable, Problem, Unauthorized
from service.resources import Resources
from service.routes.answers import refusals
from service.routes.checks import ANY_PARAMETER
from service.routes.requests import BODY_SECONDS
from service.telemetry.metrics import FOREIGN_OBJECTS, LAST_EVENT
from service.uploads import arrivals

WAIT_SECONDS: Final = 6.0
LARGEST_EVENT_BYTES: Final = 1024**2
CREATED: Final = frozenset(
    f"ObjectCreated:{how}" for how in ("Put", "Post", "CompleteMultipartUpload", "Copy")
)
"""The events that report new bytes.

The store's wildcard also matches changes of tags and of retention, which bring no new bytes.
"""
INCOMING_KEY: Final = re.compile(r"[0-9a-f]{32}")
SCRATCH_PREFIXES: Final = ("probe-", "assay-doctor-")
"""The prefixes of objects of a worker's probe and of the doctor.

They belong to no file and are deleted again.
"""
STORES_OWN_URL: Final = {ANY_PARAMETER: True}
"""The operator of the store chooses the URL. A refusal of its query would stop all events."""

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
    """An event message of Amazon S3, reduced to the members that are read."""

    records: list[Record]


@dataclass
class AnyEvent(Operation):
    """An operation that accepts any JSON of the store."""

    def __post_init__(self) -> None:
        content = OpenAPIMediaType(schema=Schema(type=OpenAPIType.OBJECT))
        self.request_body = RequestBody(
            content={"application/json": content}, description="An S3 event message"
        )


@head("/webhooks/minio", status_code=204, include_in_schema=False, opt=STORES_OWN_URL)
async def probe_webhook() -> None:
    """Answer the request that some stores send at their start, without a token."""


@post(
    "/webhooks/minio",
    status_code=204,
    operation_id="receiveEvent",
    operation_class=AnyEvent,
    summary="Receive an event of the store",
    tags=["webhooks"],
    opt=STORES_OWN_URL,
    request_max_body_size=None,
    security=[{"webhook": []}],
    responses={
        204: ResponseSpec(None, description="Accepted or ignored"),
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
                "the arrival could not be recorded; send the event again"
            ) from error


def check_token(header: str | None, tokens: tuple[str, ...]) -> None:
    """Check the token. Raises Unauthorized.

    The store sends a token without a space as `Bearer TOKEN`, and one with a space unchanged.
    """
    given = (header or "").encode()
    expected = [(token if " " in token else f"Bearer {token}").encode() for token in tokens]
    matches = [hmac.compare_digest(given, one) for one in expected]
    if not any(matches):  # every token is compared, so that the time reveals nothing
        raise Unauthorized(
            "the webhook's token is wrong: the store's MINIO_NOTIFY_WEBHOOK_AUTH_TOKEN must be one"
            " of ASSAY_WEBHOOK_TOKEN"
        )


async def read_event(request: Request[Any, Any, Any]) -> bytes:
    """Return the body, or an empty one if it is too large, truncated, too slow or not as stated.

    An oversized body is read to its end without being kept.
    """
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
    except Problem as problem:  # a digest, a coding or a range that the body cannot have
        log.warning("event ignored", why=str(problem))
        return b""
    if length > LARGEST_EVENT_BYTES:
        log.warning("event ignored", why="too large", bytes=length)
        return b""
    return bytes(body)


def find_keys(body: bytes, bucket: str) -> list[str]:
    """Return the incoming keys that the event names, or none if it is not such an event."""
    try:
        event = msgspec.json.decode(body, type=Event)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        log.warning("event ignored", why="malformed", bytes=len(body))
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
