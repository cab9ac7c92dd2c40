"""`/schema`: the OpenAPI 3.1 document, and the page that displays it without files from other
hosts.
"""

from typing import Any, Final

from litestar import MediaType, Request, Response, Router, get
from litestar.openapi import OpenAPIConfig
from litestar.openapi.plugins import OpenAPIRenderPlugin
from litestar.openapi.spec import Components, Contact, License, SecurityScheme, Server, Tag
from litestar.serialization import encode_json

from service.problems import NotFound
from service.routes.assets import answer_asset
from service.routes.heads import register_heads

CONTENT_SECURITY_POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
FILES: Final = ("swagger-ui.css", "swagger-ui-bundle.js", "start.js")
BEARER: Final = (
    "An API key, created by `assay keys create`. Each operation names the scopes that it needs."
    " The scope `admin` is enough for all of them."
)
UPLOAD_TOKEN: Final = "The `upload.token` of the file, for its sender"  # noqa: S105  # a text
PAGE: Final = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Assay: the API</title>
<link rel="icon" href="data:,">
<link rel="stylesheet" href="BASE/schema/swagger-ui.css">
<script src="BASE/schema/swagger-ui-bundle.js" defer></script>
<script src="BASE/schema/start.js" defer></script>
</head>
<body><div id="page" data-document="BASE/schema/openapi.json"></div></body>
</html>
"""


class DocumentOrPage(OpenAPIRenderPlugin):
    """A renderer of the document.

    At `/schema`, it returns the page to a client that accepts HTML.
    """

    def __init__(self, base_path: str) -> None:
        super().__init__(path=["/", "/openapi.json"], media_type=MediaType.JSON)
        self.page = PAGE.replace("BASE", base_path).encode()
        self.document = b""

    def receive_router(self, router: Router) -> None:
        """Add HEAD. Litestar calls this when the router has all handlers below `/schema`."""
        register_heads(router)

    def render(self, request: Request[Any, Any, Any], openapi_schema: dict[str, Any]) -> bytes:
        if "text/html" in request.headers.get("accept", "") and not request.scope["path"].endswith(
            ".json"
        ):
            return self.page
        self.document = self.document or encode_json(openapi_schema)
        return self.document


async def set_headers(response: Response[Any]) -> Response[Any]:
    """Set the media type and headers of a response of the plugin. Raises NotFound for a 404.

    Litestar uses one media type for everything that a plugin renders, and a page of its own for
    404.
    """
    if response.status_code == 404:
        raise NotFound("the page of the schema has no such file")
    if isinstance(response.content, bytes) and response.content.startswith(b"<!doctype"):
        response.media_type = MediaType.HTML
        response.headers["Content-Security-Policy"] = CONTENT_SECURITY_POLICY
    response.headers["X-Content-Type-Options"] = "nosniff"
    response.headers.setdefault("Vary", "Accept")
    return response


@get([f"/{name}" for name in FILES], sync_to_thread=False)
def read_asset(request: Request[Any, Any, Any]) -> Response[bytes]:
    name = request.scope["path"].rpartition("/")[2]
    return answer_asset(request, f"swagger/{name}", {"Cache-Control": "public, max-age=3600"})


def describe_api(base_path: str, version: str) -> OpenAPIConfig:
    """Return the parts of the OpenAPI document that are not written beside the handlers."""
    return OpenAPIConfig(
        title="Assay",
        version=version,
        summary="Presigned uploads to MinIO that are proved before they can be read.",
        description=(
            "Errors are problem documents (RFC 9457). Clients must ignore unknown members,"
            " because members may be added. Each route with GET has HEAD as well, which is named"
            " here only where it reads files. Query parameters that a route does not know are"
            " refused, except by links and the page."
        ),
        license=License(name="Apache-2.0", identifier="Apache-2.0"),
        contact=Contact(name="Assay"),
        servers=[Server(url=base_path or "/")],
        tags=[Tag(name="files"), Tag(name="uploads"), Tag(name="webhooks"), Tag(name="health")],
        components=Components(
            security_schemes={
                "bearer": SecurityScheme(type="http", scheme="bearer", description=BEARER),
                "uploadToken": SecurityScheme(
                    type="http", scheme="bearer", description=UPLOAD_TOKEN
                ),
                "webhook": SecurityScheme(
                    type="http",
                    scheme="bearer",
                    description="The store's token, ASSAY_WEBHOOK_TOKEN",
                ),
            }
        ),
        path="/schema",
        render_plugins=[DocumentOrPage(base_path)],
        openapi_router=Router(
            "/schema",
            route_handlers=[read_asset],
            include_in_schema=False,
            after_request=set_headers,
        ),
    )
