"""Signed links: downloads without an API key, until the link expires.

Creation: check that the owner's file is `ready`. Then sign a token with the file, the key of the
request, the expiration time, the disposition and the permission to embed it.

The path of a link ends with the filename, because some clients save a file under the last segment
of its URL. The name is not signed, is not read, and may be absent.

Download:

1. Check the token. If it was altered, or was not issued by this service: 403.
2. Check its expiration time and its key. If one of them has expired, or the key was revoked: 410.
3. Read the file, as for every download.
"""

import re
from datetime import datetime, timedelta
from typing import Final
from urllib.parse import quote
from uuid import UUID

import msgspec

from service import problems
from service.auth.principals import Principal
from service.auth.tokens import Purpose, Token, read_token, sign_token
from service.downloads.streaming import find_readable
from service.model import ProvedFile
from service.queries import keys
from service.queries.files import ask_time
from service.resources import Resources

LONGEST: Final = timedelta(days=7)
UNSAFE_IN_PATH: Final = re.compile(r"[\x00-\x1f\x7f-\x9f/\\]|\A\.{1,2}\Z")
"""What a client would remove from a path, or could not write to a folder, even if it is encoded."""


class Link(msgspec.Struct, frozen=True):
    """A signed link. `path` begins with `/l/`, and does not include the path of PUBLIC_URL."""

    path: str
    expires_at: datetime


async def make_link(
    resources: Resources,
    file_id: UUID,
    principal: Principal,
    *,
    expires_in: timedelta,
    inline: bool,
    embed: bool,
) -> Link:
    """Create a link to a file that can be read now.

    Raises LinksNotAvailable, and the problems of `find_readable`.
    """
    secrets = resources.settings.link_secret
    if not secrets:
        raise problems.LinksNotAvailable("links cannot be signed: ASSAY_LINK_SECRET is not set")
    file = await find_readable(resources, file_id, owner=principal.acting_for)
    expires_at = (await ask_time(resources.pool) + expires_in).replace(microsecond=0)
    token = Token(
        purpose=Purpose.DOWNLOAD,
        file_id=file.id,
        key_id=principal.key_id,
        expires_at=expires_at,
        inline=inline,
        embed=embed,
    )
    return Link(f"/l/{sign_token(secrets, token)}/{encode_name(file.filename)}", expires_at)


def encode_name(filename: str) -> str:
    """Return the filename as the last segment of a path.

    A name with a control character or a separator, and one that names a folder, cannot be declared,
    so the replacement is a second check.
    """
    return quote(UNSAFE_IN_PATH.sub("_", filename), safe="")


async def find_linked(resources: Resources, text: str) -> tuple[ProvedFile, Token]:
    """Return the file of a link and its token.

    Raises InvalidLink, LinkEnded, and the problems of `find_readable`.
    """
    token = read_token(resources.settings.link_secret, text, purpose=Purpose.DOWNLOAD)
    if token is None:
        raise problems.InvalidLink("the link was altered, or was not created by this service")
    if not await keys.is_live(resources.pool, token.key_id, until=token.expires_at):
        raise problems.LinkEnded(
            "the link has expired or was revoked: ask its sender for a new one"
        )
    return await find_readable(resources, token.file_id, owner=None), token
