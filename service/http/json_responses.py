"""JSON responses of two messages, which cost half of what Litestar's own cost.

Litestar's response handles cookies, background tasks and encodings, which no response here has.
"""

from typing import Any, Final, TypeVar, cast

import msgspec
from litestar import Response
from litestar.response.base import ASGIResponse
from litestar.types import HTTPScope, Receive, Scope, Send

T = TypeVar("T")

encoder: Final = msgspec.json.Encoder()


class JsonResponse(Response[T]):
    """A response whose content consists of structs, texts and numbers.

    Its status and its header fields are those that the handler gives. Without a status, the
    route's own one is used.
    """

    def to_asgi_response(self, *_: Any, status_code: int | None = None, **__: Any) -> ASGIResponse:
        """Return the response as an ASGI application. The arguments are Litestar's."""
        headers = [
            (name.lower().encode("latin-1"), value.encode("latin-1"))
            for name, value in self.headers.items()
        ]
        return JsonMessages(encoder.encode(self.content), headers, self.status_code or status_code)


class JsonMessages(ASGIResponse):
    """The two messages of a JSON response."""

    def __init__(  # it replaces all that ASGIResponse prepares
        self, body: bytes, headers: list[tuple[bytes, bytes]], status: int | None
    ) -> None:
        self.body = body
        self.status_code = status or 200
        self.headers_sent = [
            (b"content-type", b"application/json"),
            (b"content-length", str(len(body)).encode()),
            *headers,
        ]

    async def __call__(
        self,
        scope: Scope,
        receive: Receive,  # noqa: ARG002  # ASGI passes it
        send: Send,
    ) -> None:
        await send(
            {
                "type": "http.response.start",
                "status": self.status_code,
                "headers": self.headers_sent,
            }
        )
        body = b"" if cast(HTTPScope, scope)["method"] == "HEAD" else self.body
        await send({"type": "http.response.body", "body": body, "more_body": False})
