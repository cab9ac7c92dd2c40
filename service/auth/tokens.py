"""Tokens for one file and one purpose, with an expiration time.

A request with a token needs no key.

    base64url( HMAC-SHA256(secret, payload) ‖ payload ), 100 characters
    payload: version, purpose, flags (1 byte each), file id, key id (16 bytes each),
             end (8 bytes, seconds since 1970)

A token is checked in this order:

1. Check its length and its alphabet. If one is wrong, the text is not a token. (100 characters of
   base64url encode 75 bytes without spare bits, so no two texts encode the same token.)
2. Compare its HMAC with the HMAC under each of the secrets. If none is equal, the text is not a
   token. Nothing is parsed before this check.
3. Check its version and purpose. If one is wrong, the token is not accepted here.
4. Its content is now authentic. Only the database can decide whether it has expired, and whether
   its key is still valid.
"""

import base64
import hashlib
import hmac
import re
import struct
from collections.abc import Sequence
from datetime import UTC, datetime
from enum import IntEnum
from typing import Final
from uuid import UUID

import msgspec

VERSION: Final = 1
PAYLOAD: Final = struct.Struct(">BBB16s16sQ")
MAC_BYTES: Final = hashlib.sha256().digest_size
TEXT: Final = re.compile(r"[A-Za-z0-9_-]{100}")
INLINE: Final = 1
EMBED: Final = 2
"""A flag. A process of an older version ignores it."""


class Purpose(IntEnum):
    """The purpose of a token. It is accepted for no other purpose."""

    DOWNLOAD = 1
    UPLOAD = 2


class Token(msgspec.Struct, frozen=True, kw_only=True):
    """The content of a token.

    `key_id` is the key that created the token. The token is no longer valid when the key has
    expired or was revoked. With `inline`, a browser displays the file instead of saving it. With
    `embed`, pages of other origins may show it.
    """

    purpose: Purpose
    file_id: UUID
    key_id: UUID
    expires_at: datetime
    inline: bool = False
    embed: bool = False


def sign_token(secrets: Sequence[str], token: Token) -> str:
    """Return the text of the token, signed with the first of the secrets.

    `expires_at` is rounded down to whole seconds.
    """
    flags = INLINE * token.inline | EMBED * token.embed
    end = int(token.expires_at.timestamp())
    payload = PAYLOAD.pack(
        VERSION, token.purpose, flags, token.file_id.bytes, token.key_id.bytes, end
    )
    return base64.urlsafe_b64encode(digest(secrets[0], payload) + payload).decode()


def read_token(secrets: Sequence[str], text: str, *, purpose: Purpose) -> Token | None:
    """Run steps 1 to 3 above, and return the content of the token, which may have expired.

    Return None if the text is not a token for this purpose, signed with one of the secrets.
    """
    if not TEXT.fullmatch(text):
        return None
    raw = base64.urlsafe_b64decode(text)
    mac, payload = raw[:MAC_BYTES], raw[MAC_BYTES:]
    if not any(hmac.compare_digest(mac, digest(secret, payload)) for secret in secrets):
        return None
    version, found, flags, file_id, key_id, end = PAYLOAD.unpack(payload)
    if (version, found) != (VERSION, purpose):
        return None
    return Token(
        purpose=purpose,
        file_id=UUID(bytes=file_id),
        key_id=UUID(bytes=key_id),
        expires_at=datetime.fromtimestamp(end, UTC),
        inline=bool(flags & INLINE),
        embed=bool(flags & EMBED),
    )


def digest(secret: str, payload: bytes) -> bytes:
    return hmac.digest(secret.encode(), payload, "sha256")
