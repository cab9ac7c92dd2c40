"""The request class of every route.

It compares a body with the digests that the request states, and decodes JSON strictly into the
struct that the handler names.
"""

import asyncio
import re
from collections.abc import AsyncGenerator
from typing import Any, Final

import msgspec
from litestar import Request

from service.http.digests import compare_pieces, read_digests
from service.http.request_bodies import check_content
from service.problems import (
    FieldError,
    InvalidRequest,
    MalformedBody,
    SlowSender,
    UnsupportedMediaType,
)

BODY_SECONDS: Final = 30.0
AT_FIELD: Final = re.compile(r" - at `(?:key in )?\$\.?(.*)`$")
NAMED_FIELD: Final = re.compile(r"field `([^`]+)`")


class JsonRequest(Request[Any, Any, Any]):
    """A request whose JSON is not converted, while Litestar would convert "5"
    to 5 and true to 1.
    """

    async def json(self) -> Any:
        """Return the body, decoded for the handler's `data`.

        Raises UnsupportedMediaType, MalformedBody or InvalidRequest.
        """
        field = self.route_handler.parsed_data_field
        check_media_type(self.headers.get("content-type"))
        return decode_body(await self.body(), field.annotation if field else Any)

    async def body(self) -> bytes:
        """Return the body. Litestar calls this before `json`.

        Raises SlowSender if it is not complete after BODY_SECONDS, because the server itself does
        not end a request in progress.
        """
        try:
            async with asyncio.timeout(BODY_SECONDS):
                return await super().body()
        except TimeoutError as error:
            raise SlowSender(
                f"the body was not complete after {BODY_SECONDS:.0f} s",
                headers={"Connection": "close"},
            ) from error

    async def stream(self) -> AsyncGenerator[bytes, None]:
        """Yield the pieces of the body, and compare it with the stated digests at its end.

        Every body is read here, except for those that contain a file. Raises InvalidRequest and
        UnsupportedMediaType before the body is read, and DigestMismatch.
        """
        fields = list(self.headers.multi_items())
        check_content(fields)
        async for piece in compare_pieces(super().stream(), read_digests(fields)):
            yield piece


def check_media_type(header: str | None) -> None:
    essence = (header or "").partition(";")[0].strip().lower()
    if essence != "application/json":
        raise UnsupportedMediaType(
            "Content-Type: must be application/json",
            headers={"Accept": "application/json"},
        )


def decode_body(body: bytes, kind: Any) -> Any:
    try:
        return msgspec.json.decode(body, type=kind)
    except msgspec.ValidationError as error:
        wrong = describe_error(str(error))
        raise InvalidRequest(f"{wrong.field}: {wrong.detail}", errors=(wrong,)) from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise MalformedBody(f"the body is not JSON: {error}") from error
    except RecursionError as error:
        raise MalformedBody("the body is nested too deeply") from error


def describe_error(text: str) -> FieldError:
    """Return the message of msgspec, with the field that it is about."""
    at = AT_FIELD.search(text)
    named = NAMED_FIELD.search(text)
    path = at[1] if at else ""
    if named is None:
        return FieldError(path or "body", AT_FIELD.sub("", text))
    detail = "is not a field of this request; omit it" if "unknown" in text else "is required"
    return FieldError(f"{path}.{named[1]}" if path else named[1], detail)
