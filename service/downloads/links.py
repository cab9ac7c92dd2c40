"""Signed links: a download for whoever has the address, until its end.

1. Make: the owner's file is `ready`, and the key that asks is written into the token with the end and the disposition.
2. Read: the token is ours, else 403. Its end has come, or its key was revoked or ended: 410. Then the file, as every download reads it.
"""

from datetime import datetime, timedelta
from typing import Final
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


class Link(msgspec.Struct, frozen=True):
    """`path` begins with `/l/`, behind whatever PUBLIC_URL puts in front."""

    path: str
    expires_at: datetime


async def make_link(
    resources: Resources,
    file_id: UUID,
    principal: Principal,
    *,
    expires_in: timedelta,
    inline: bool,
) -> Link:
    """A link to a file that can be read now. Raises LinksNotAvailable, and what `find_readable` raises."""
    secrets = resources.settings.link_secret
    if not secrets:
        raise problems.LinksNotAvailable("no link can be signed here: ASSAY_LINK_SECRET is not set")
    file = await find_readable(resources, file_id, owner=principal.acting_for)
    expires_at = (await ask_time(resources.pool) + expires_in).replace(microsecond=0)
    token = Token(
        purpose=Purpose.DOWNLOAD,
        file_id=file.id,
        key_id=principal.key_id,
        expires_at=expires_at,
        inline=inline,
    )
    return Link(f"/l/{sign_token(secrets, token)}", expires_at)


async def find_linked(resources: Resources, text: str) -> tuple[ProvedFile, Token]:
    """The file behind a link. Raises InvalidLink, LinkEnded, and what `find_readable` raises."""
    token = read_token(resources.settings.link_secret, text, purpose=Purpose.DOWNLOAD)
    if token is None:
        raise problems.InvalidLink("the link was altered, or is not one of this service")
    if not await keys.is_live(resources.pool, token.key_id, until=token.expires_at):
        raise problems.LinkEnded("the link has ended: ask whoever sent it for a new one")
    return await find_readable(resources, token.file_id, owner=None), token
