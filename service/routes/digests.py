"""The digests that a request states about its file, as parameters of the routes that receive one.

Other bodies are compared in service/routes/requests.py.
"""

from typing import Annotated, Any

from litestar import Request
from litestar.di import NamedDependency
from litestar.params import HeaderParameter

from service.auth.principals import Principal
from service.http.digests import StatedDigest, read_digests
from service.http.request_bodies import check_content

BODY = "sha-256, sha-512 or md5; of the whole form, if the body is one"


def provide_digests(
    request: Request[Any, Any, Any],
    # Without this parameter, Litestar would create a task for each of the two dependencies.
    principal: NamedDependency[Principal],  # noqa: ARG001  # see above
    # The fields are read as they were sent, because each may have several lines. These parameters
    # describe them in the OpenAPI document.
    repr_digest: Annotated[  # noqa: ARG001  # see above
        str | None,
        HeaderParameter(
            name="Repr-Digest",
            description="The digest of the file (RFC 9530): sha-256, sha-512 or md5",
        ),
    ] = None,
    content_digest: Annotated[  # noqa: ARG001  # see above
        str | None,
        HeaderParameter(
            name="Content-Digest", description=f"The digest of the body (RFC 9530): {BODY}"
        ),
    ] = None,
    content_md5: Annotated[  # noqa: ARG001  # see above
        str | None,
        HeaderParameter(name="Content-MD5", description="The MD5 of the body (RFC 1864)"),
    ] = None,
    digest: Annotated[  # noqa: ARG001  # see above
        str | None,
        HeaderParameter(name="Digest", description=f"The digest of the body (RFC 3230): {BODY}"),
    ] = None,
) -> tuple[StatedDigest, ...]:
    """Return the stated digests.

    Raises InvalidRequest, and UnsupportedMediaType for an encoded body.
    """
    fields = list(request.headers.multi_items())
    check_content(fields)
    return read_digests(fields)
