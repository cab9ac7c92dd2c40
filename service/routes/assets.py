"""Files of `service/web/`, each read once and sent with an ETag, so that a browser can cache it."""

import hashlib
import importlib.resources
from functools import cache
from typing import Any, Final

import msgspec
from litestar import Request, Response

from service.http.representation import matches

MEDIA_TYPES: Final = {"html": "text/html", "css": "text/css", "js": "text/javascript"}


class Asset(msgspec.Struct, frozen=True):
    """A file. Its ETag is a digest of its bytes."""

    content: bytes
    media_type: str
    etag: str


@cache
def load_asset(name: str) -> Asset:
    """Return the file under a path below `service/web/`. The path never comes from a client."""
    content = importlib.resources.files("service").joinpath("web", *name.split("/")).read_bytes()
    return Asset(
        content,
        MEDIA_TYPES[name.rpartition(".")[2]],
        f'"{hashlib.sha256(content).hexdigest()[:32]}"',
    )


def answer_asset(
    request: Request[Any, Any, Any], name: str, headers: dict[str, str]
) -> Response[bytes]:
    """Return the file, or 304 if the browser has it. `headers` are added to those of every file."""
    asset = load_asset(name)
    headers = {"ETag": asset.etag, "X-Content-Type-Options": "nosniff", **headers}
    if matches(request.headers.get("if-none-match", ""), asset.etag, weakly=True):
        return Response(b"", status_code=304, media_type=asset.media_type, headers=headers)
    return Response(asset.content, media_type=asset.media_type, headers=headers)
