"""Event ids: positions in the history, encrypted, because all owners share their numbers.

    base64url( nonce ‖ XChaCha20-Poly1305(position) ), 75 characters without padding
    nonce: 24 bytes; position: 16 bytes and a tag of 16 bytes

The numbers of a position, their differences and their order would show an owner how much other
owners do. The owner's name is authenticated with each position, so that an id of another owner is
not accepted. The key is in the database, so that every process reads the ids of every other one.
"""

import base64
import hmac
import re
import secrets
import struct
from typing import Final

from Crypto.Cipher import ChaCha20_Poly1305

from service.queries.history import Position

TEXT: Final = re.compile(r"[A-Za-z0-9_-]{75}")
CONTENT: Final = struct.Struct(">QQ")
KEY_BYTES: Final = 32
NONCE_BYTES: Final = 24
TAG_BYTES: Final = 16


class EventIds:
    """The conversion between positions and ids. `secret` is the key of the database."""

    def __init__(self, secret: bytes) -> None:
        self.cipher_key, self.nonce_key = secret[:KEY_BYTES], secret[KEY_BYTES:]

    def name_event(self, position: Position, *, owner: str) -> str:
        """Return the id of the event at this position. Every stream and process returns the same.

        The nonce is a keyed digest of what is encrypted, so no two positions share one.
        """
        content = CONTENT.pack(*position) + owner.encode()
        nonce = hmac.digest(self.nonce_key, content, "sha256")[:NONCE_BYTES]
        return self.encrypt(position, nonce, owner=owner)

    def name_position(self, position: Position, *, owner: str) -> str:
        """Return an id for a position without an event. Each call returns another id.

        Equal ids would show that no other owner has done anything in between.
        """
        return self.encrypt(position, secrets.token_bytes(NONCE_BYTES), owner=owner)

    def encrypt(self, position: Position, nonce: bytes, *, owner: str) -> str:
        cipher = ChaCha20_Poly1305.new(key=self.cipher_key, nonce=nonce)
        cipher.update(owner.encode())
        text, tag = cipher.encrypt_and_digest(CONTENT.pack(*position))
        return base64.urlsafe_b64encode(nonce + text + tag).rstrip(b"=").decode()

    def find_position(self, text: str, *, owner: str) -> Position | None:
        """Return the position of an id, or None if the text is not an id for this owner."""
        if not TEXT.fullmatch(text):
            return None
        raw = base64.urlsafe_b64decode(text + "=")
        cipher = ChaCha20_Poly1305.new(key=self.cipher_key, nonce=raw[:NONCE_BYTES])
        cipher.update(owner.encode())
        try:
            content = cipher.decrypt_and_verify(raw[NONCE_BYTES:-TAG_BYTES], raw[-TAG_BYTES:])
        except ValueError:
            return None
        return Position(*CONTENT.unpack(content))
