"""Principals: the conversion of a request's API key or upload token into a `Principal`.

No other module authenticates requests. Each route that needs a key declares the scopes that open it
(`open_to`). The method of a request implies no right.

An upload token stands for the key that declared its file, for as long as both are valid. It is
accepted only for that file, and only on the routes that declare it. The backend of a product gives
it to a browser, which never receives the key.
"""

import asyncio
import base64
import hashlib
import re
import secrets
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final
from uuid import UUID

import msgspec
from litestar import HttpMethod, Request, Router
from litestar.handlers import BaseRouteHandler, HTTPRouteHandler
from litestar.openapi.spec import SecurityRequirement

from service.auth.tokens import TEXT, Purpose, Token, read_token, sign_token
from service.model import File, Sha256
from service.problems import Forbidden, Unauthorized
from service.queries import keys
from service.resources import Resources

KEY: Final = re.compile(r"assay_[A-Za-z0-9_-]{43}")
WAIT_SECONDS: Final = 6.0
READ, WRITE, ADMIN = "read", "write", "admin"
SCOPES: Final = "scopes"
UPLOAD_TOKEN: Final = "upload_token"  # noqa: S105  # the name of a declaration


Check = Callable[[Request[Any, Any, Any]], Awaitable[None]]


class UndeclaredRights(Exception):
    """A route that needs a key, but does not declare the scopes that open it, or would skip the
    check of the key.
    """


def open_to(*scopes: str, upload_token: bool = False) -> dict[str, Any]:
    """Return the arguments of a route that a key with any one of these scopes opens.

    A key with the scope `admin` opens it as well. With `upload_token`, so does the upload token of
    the file in the path.
    """
    alternatives: list[SecurityRequirement] = [{"bearer": [scope]} for scope in scopes]
    if upload_token:
        alternatives.append({"uploadToken": []})
    return {
        "opt": {SCOPES: frozenset(scopes), UPLOAD_TOKEN: upload_token},
        "security": alternatives,
    }


class Principal(msgspec.Struct, frozen=True):
    """The key, owner and scopes of a request.

    `only_file` is the file of the upload token, or None if the request was sent with an API key.
    """

    key_id: UUID
    owner: str
    scopes: frozenset[str]
    only_file: UUID | None = None

    @property
    def is_admin(self) -> bool:
        return ADMIN in self.scopes

    @property
    def acting_for(self) -> str | None:
        """Return the owner whose files the request may access, or None for every owner."""
        return None if self.is_admin else self.owner

    def act_as(self, owner: str | None) -> str:
        """Return the owner that the request names, or else the principal's. Raises Forbidden."""
        if owner is None or owner == self.owner or self.is_admin:
            return self.owner if owner is None else owner
        raise Forbidden.at(
            "owner", "only a key with the scope admin can act for another owner: omit the owner"
        )


def make_key() -> tuple[str, Sha256]:
    """Return a new key of 256 random bits, and the digest that is stored in its place."""
    text = "assay_" + base64.urlsafe_b64encode(secrets.token_bytes(32)).rstrip(b"=").decode()
    return text, digest_key(text)


def digest_key(text: str) -> Sha256:
    """Return the digest of a key.

    One round of SHA-256 is enough, because a key with 256 random bits cannot be found by trial.
    """
    return Sha256(hashlib.sha256(text.encode()).digest())


def parse_authorization(header: str | None) -> str:
    """Return the key or token of `Authorization: Bearer …` (RFC 6750, section 2.1).

    Raises Unauthorized.
    """
    if header is None:
        raise Unauthorized("send your API key as `Authorization: Bearer assay_…`")
    scheme, _, key = header.partition(" ")
    if scheme.lower() != "bearer" or not (
        KEY.fullmatch(key.strip()) or TEXT.fullmatch(key.strip())
    ):
        raise Unauthorized(
            "the Authorization header is neither `Bearer` with an API key "
            "nor `Bearer` with an upload token"
        )
    return key.strip()


async def authenticate(resources: Resources, header: str | None) -> Principal:
    """Return the principal of the key or token.

    Raises Unauthorized, with the same text for an unknown, an expired and a revoked one.
    """
    text = parse_authorization(header)
    # The limit includes the wait for a connection of the pool.
    async with asyncio.timeout(WAIT_SECONDS):
        principal = await (
            find_key(resources, text) if KEY.fullmatch(text) else find_uploader(resources, text)
        )
    if principal is None:
        raise Unauthorized("the API key or upload token is unknown, expired or revoked")
    return principal


async def find_key(resources: Resources, text: str) -> Principal | None:
    grant = await resources.grants.find(digest_key(text))
    return None if grant is None else Principal(grant.key_id, grant.owner, frozenset(grant.scopes))


async def find_uploader(resources: Resources, text: str) -> Principal | None:
    """Return the principal of an upload token.

    Return None if the token is not valid or has expired, or if the key that created it has expired
    or was revoked.
    """
    token = read_token(resources.settings.link_secret, text, purpose=Purpose.UPLOAD)
    if token is None:
        return None
    owner = await keys.find_file_owner(
        resources.pool, token.key_id, file_id=token.file_id, until=token.expires_at
    )
    return (
        None
        if owner is None
        else Principal(token.key_id, owner, frozenset({READ, WRITE}), only_file=token.file_id)
    )


def sign_upload_token(resources: Resources, file: File, key_id: UUID) -> str | None:
    """Return a token for sending this file until it expires, or None if LINK_SECRET is not set."""
    secrets = resources.settings.link_secret
    end = file.expires_at.replace(microsecond=0)
    return (
        sign_token(
            secrets, Token(purpose=Purpose.UPLOAD, file_id=file.id, key_id=key_id, expires_at=end)
        )
        if secrets
        else None
    )


def find_scopes(handler: BaseRouteHandler) -> frozenset[str]:
    """Return the scopes that open the route. Raises UndeclaredRights.

    The framework adds a handler for OPTIONS to every path. This handler returns only the methods of
    the path, and is open to the scope `read`.
    """
    if handler.opt.get(SCOPES):
        return frozenset(handler.opt[SCOPES])
    if isinstance(handler, HTTPRouteHandler) and handler.http_methods == {HttpMethod.OPTIONS}:
        return frozenset({READ})
    raise UndeclaredRights(f"{handler} needs a key, but does not declare its scopes: see open_to")


def guard_routes(handlers: Sequence[Any], then: Check) -> Router:
    """Return a router for these routes behind `require_key`, which `then` follows.

    Litestar copies the handler for each call of a guard of its own, and runs only the innermost
    hook. The hook therefore runs both checks. Raises UndeclaredRights.
    """
    for handler in handlers:
        find_scopes(handler)
        if handler.before_request is not None or handler.cache:
            raise UndeclaredRights(
                f"{handler} has a hook or a cache, which would replace the check of the key"
            )

    async def admit(request: Request[Any, Any, Any]) -> None:
        await require_key(request)
        await then(request)

    return Router("/", route_handlers=handlers, before_request=admit)


def check_scope(principal: Principal, scopes: frozenset[str]) -> None:
    if not {*scopes, ADMIN} & principal.scopes:
        raise Forbidden(f"the API key lacks the scope {' or '.join(sorted(scopes))}")


def check_token(principal: Principal, handler: BaseRouteHandler, file_id: object) -> None:
    """Check that an upload token is used for its own file, on a route that accepts it.

    Raises Forbidden.
    """
    if principal.only_file is None:
        return
    if not handler.opt.get(UPLOAD_TOKEN) or file_id != principal.only_file:
        raise Forbidden(
            "an upload token permits only complete, upload, parts, metadata and DELETE, "
            "and only for its own file"
        )


async def require_key(request: Request[Any, Any, Any]) -> None:
    """Authenticate a request and check its rights, before any of its body is read.

    Every route that needs a key is behind this.
    """
    principal = await authenticate(
        request.app.state.resources, request.headers.get("authorization")
    )
    request.scope["state"]["principal"] = principal
    handler = request.route_handler
    check_token(principal, handler, request.path_params.get("file_id"))
    check_scope(principal, find_scopes(handler))
