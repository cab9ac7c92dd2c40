"""Tokens that carry their own right: one file, one purpose, an end. Whoever holds one needs no key.

    base64url( HMAC-SHA256(secret, payload) ‖ payload ), 100 characters
    payload: version, purpose, flags (a byte each), file id, key id (16 bytes each), end (8 bytes, seconds since 1970)

1. Of another length or alphabet: no token. 75 bytes fill 100 characters without a bit to spare, so no two texts are the same token.
2. The HMAC fits under none of the secrets: no token. Nothing is parsed before.
3. Another version or purpose: no token here.
4. What it says is true: whether its end has come, and whether its key still lives, is the database's to say.
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


class Purpose(IntEnum):
    """What a token is for; it is accepted for nothing else."""

    DOWNLOAD = 1
    UPLOAD = 2


class Token(msgspec.Struct, frozen=True, kw_only=True):
    """`key_id` is the key that made it: when that one ends, so does the token. `inline`: shown rather than saved."""

    purpose: Purpose
    file_id: UUID
    key_id: UUID
    expires_at: datetime
    inline: bool = False


def sign_token(secrets: Sequence[str], token: Token) -> str:
    """The text of `token`, under the first of the secrets; `expires_at` in whole seconds."""
    flags = INLINE if token.inline else 0
    end = int(token.expires_at.timestamp())
    payload = PAYLOAD.pack(
        VERSION, token.purpose, flags, token.file_id.bytes, token.key_id.bytes, end
    )
    return base64.urlsafe_b64encode(digest(secrets[0], payload) + payload).decode()


def read_token(secrets: Sequence[str], text: str, *, purpose: Purpose) -> Token | None:
    """What `text` says, when it is one of ours for this purpose under any of the secrets; ended or not."""
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
    )


def digest(secret: str, payload: bytes) -> bytes:
    return hmac.digest(secret.encode(), payload, "sha256")
