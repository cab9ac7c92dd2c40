"""Files of `service/web/` as they are sent: read once, and named by an ETag, so that a browser asks for each no more than it must."""

import hashlib
import importlib.resources
from functools import cache
from typing import Any, Final

import msgspec
from litestar import Request, Response

from service.http.representation import matches

MEDIA_TYPES: Final = {"html": "text/html", "css": "text/css", "js": "text/javascript"}


class Asset(msgspec.Struct, frozen=True):
    """One file; the ETag is a digest of its bytes."""

    content: bytes
    media_type: str
    etag: str


@cache
def load_asset(name: str) -> Asset:
    """`name`: a path below `service/web/`, ours and never a client's."""
    content = importlib.resources.files("service").joinpath("web", *name.split("/")).read_bytes()
    return Asset(
        content,
        MEDIA_TYPES[name.rpartition(".")[2]],
        f'"{hashlib.sha256(content).hexdigest()[:32]}"',
    )


def answer_asset(
    request: Request[Any, Any, Any], name: str, headers: dict[str, str]
) -> Response[bytes]:
    """The file, or 304 for a browser that has it. `headers`: beside those that every file has."""
    asset = load_asset(name)
    headers = {"ETag": asset.etag, "X-Content-Type-Options": "nosniff", **headers}
    if matches(request.headers.get("if-none-match", ""), asset.etag, weakly=True):
        return Response(b"", status_code=304, media_type=asset.media_type, headers=headers)
    return Response(asset.content, media_type=asset.media_type, headers=headers)
