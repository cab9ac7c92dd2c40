"""Who is asking: turns a request into a `Principal`. Nothing else knows about keys."""

import asyncio
import base64
import hashlib
import re
import secrets
from typing import Any, Final
from uuid import UUID

import msgspec
from litestar.connection import ASGIConnection
from litestar.handlers import BaseRouteHandler

from service.model import Sha256
from service.problems import Forbidden, Unauthorized
from service.queries import keys
from service.resources import Resources

KEY: Final = re.compile(r"assay_[A-Za-z0-9_-]{43}")
PATIENCE_SECONDS: Final = 6.0
READ, WRITE, ADMIN = "read", "write", "admin"
READING: Final = frozenset({"GET", "HEAD", "OPTIONS"})


class Principal(msgspec.Struct, frozen=True):
    """Who is asking, by which key, and what for."""

    key_id: UUID
    owner: str
    scopes: frozenset[str]

    @property
    def is_admin(self) -> bool:
        return ADMIN in self.scopes

    @property
    def acting_for(self) -> str | None:
        """Whose files the request may touch; None: every owner's."""
        return None if self.is_admin else self.owner

    def act_as(self, owner: str | None) -> str:
        """The owner that the request names, else the principal's own. Raises Forbidden."""
        if owner is None or owner == self.owner or self.is_admin:
            return owner or self.owner
        raise Forbidden.at("owner", "only a key with the scope admin acts for others: leave it out")


def make_key() -> tuple[str, Sha256]:
    """A new key of 256 random bits, and the digest that is stored in its place."""
    text = "assay_" + base64.urlsafe_b64encode(secrets.token_bytes(32)).rstrip(b"=").decode()
    return text, digest_key(text)


def digest_key(text: str) -> Sha256:
    """A key has 256 random bits: one round is enough, nobody can try them all."""
    return Sha256(hashlib.sha256(text.encode()).digest())


def parse_authorization(header: str | None) -> str:
    """The key in `Authorization: Bearer KEY` (RFC 6750, 2.1). Raises Unauthorized."""
    if header is None:
        raise Unauthorized("send your API key as `Authorization: Bearer assay_…`")
    scheme, _, key = header.partition(" ")
    if scheme.lower() != "bearer" or not KEY.fullmatch(key.strip()):
        raise Unauthorized("the Authorization header is not `Bearer assay_…`")
    return key.strip()


async def authenticate(resources: Resources, header: str | None) -> Principal:
    """Who the key belongs to. Raises Unauthorized: an unknown, an expired and a revoked key look the same."""
    secret = digest_key(parse_authorization(header))
    async with asyncio.timeout(PATIENCE_SECONDS):  # of a database that hangs nobody waits for, not even in the pool's queue
        grant = await keys.find_grant(resources.pool, secret)
    if grant is None:
        raise Unauthorized("the API key is unknown, expired or revoked")
    return Principal(grant.key_id, grant.owner, frozenset(grant.scopes))


def check_scope(principal: Principal, method: str) -> None:
    """Reading needs `read`, all else `write`; `admin` may both. Raises Forbidden."""
    needed = READ if method in READING else WRITE
    if needed not in principal.scopes and not principal.is_admin:
        raise Forbidden(f"the API key lacks the scope {needed}")


async def require_key(connection: ASGIConnection[Any, Any, Any, Any], _: BaseRouteHandler) -> None:
    """The guard of every route that is not open to all: it runs before anything of the body is read."""
    principal = await authenticate(connection.app.state.resources, connection.headers.get("authorization"))
    connection.scope["state"]["principal"] = principal
    check_scope(principal, str(connection.scope.get("method")))
