"""What a file is: its states, what was declared about it, what was proved.

pending ⇄ verifying ──▶ ready ⇄ damaged        pending may also go straight to ready or rejected;
   │          ├───────▶ rejected               every state but `deleted` may go to `deleted`
   └──────────┴───────▶ expired

See docs/architecture.md, "States".
"""

import os
import time
from datetime import datetime
from enum import StrEnum
from typing import Any, Final, Self
from uuid import UUID

import msgspec

MIB: Final = 1024**2
GIB: Final = 1024**3
LARGEST_PUT_BYTES: Final = 5 * GIB
"""The largest object that one PUT, one part and one CopyObject may carry (S3's own limits, as all of these)."""
LARGEST_OBJECT_BYTES: Final = 5 * 1024 * GIB
SMALLEST_PART_BYTES: Final = 5 * MIB
"""Of every part but the last."""
MOST_PARTS: Final = 10_000


class State(StrEnum):
    """What is true of a file, and what anybody may observe of it."""

    PENDING = "pending"
    VERIFYING = "verifying"
    READY = "ready"
    REJECTED = "rejected"
    EXPIRED = "expired"
    DELETED = "deleted"
    DAMAGED = "damaged"


UNPROVED: Final = frozenset({State.PENDING, State.VERIFYING})
PROVED: Final = frozenset({State.READY, State.DAMAGED})
GONE: Final = frozenset({State.EXPIRED, State.DELETED})


class RejectionReason(StrEnum):
    """Why the bytes that arrived are not the file that was declared."""

    SIZE_MISMATCH = "size-mismatch"
    DIGEST_MISMATCH = "digest-mismatch"
    CONTENT_TYPE_MISMATCH = "content-type-mismatch"
    UNVERIFIABLE = "unverifiable"


class Sha256:
    """A SHA-256 digest: 32 bytes, written as 64 lower-case hex digits. No struct, so that msgspec asks us how it is read."""

    __slots__ = ("digest",)

    def __init__(self, digest: bytes) -> None:
        if len(digest) != 32:
            raise ValueError("a SHA-256 digest has 32 bytes")
        self.digest: Final = digest

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sha256) and self.digest == other.digest

    def __hash__(self) -> int:
        return hash(self.digest)

    def __repr__(self) -> str:
        return f"Sha256({self})"

    def __str__(self) -> str:
        return self.digest.hex()

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read 64 hex digits in either case; ValueError says what was wrong."""
        if len(text) != 64 or not all(c in "0123456789abcdefABCDEF" for c in text):
            raise ValueError("expected a SHA-256 as 64 hexadecimal digits")
        return cls(bytes.fromhex(text))


class Rejection(msgspec.Struct, frozen=True):
    """Why a file was rejected: `reason` for programs, `detail` for people."""

    reason: RejectionReason
    detail: str


class Parts(msgspec.Struct, frozen=True):
    """How `size` bytes are cut: parts 1 to `count` of `part_size` bytes each, the last one with the rest."""

    size: int
    part_size: int

    @property
    def count(self) -> int:
        """At least one: no bytes are one part without any."""
        return max(1, -(-self.size // self.part_size))

    def size_of(self, number: int) -> int:
        return (
            self.part_size if number < self.count else self.size - (self.count - 1) * self.part_size
        )


def cut(size: int, *, usual_part_size: int) -> Parts:
    """In parts of the usual size; of a larger file in as many as there may be, of whole MiB."""
    smallest = -(-size // (MOST_PARTS * MIB)) * MIB
    return Parts(size, max(usual_part_size, smallest))


class Declaration(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a client says about a file before it sends it. `content_type` None: not declared, so never compared.

    `multipart` None: the client leaves it to us. Defaults are left out where it is digested, so that a field may be added.
    """

    owner: str
    filename: str
    size: int
    content_type: str | None
    sha256: Sha256 | None
    metadata: dict[str, str]
    multipart: bool | None = None


class File(msgspec.Struct, frozen=True, kw_only=True):
    """One row: what was declared and what was proved. Sizes in bytes, times aware UTC.

    `hash`, `minio_object_name`, `vault_etag` and `upload_date` are set together, by the commit, or not at all.
    `incoming_key` is None for a file that was streamed through the API: nothing of it was ever in incoming.
    `part_size` is None for a file that comes in one PUT; `upload_id` names the store's multipart upload as soon as it is begun.
    """

    id: UUID
    owner: str
    filename: str
    size: int
    content_type: str | None
    declared_sha256: Sha256 | None
    metadata: dict[str, str]
    incoming_key: str | None
    part_size: int | None
    upload_id: str | None
    state: State
    hash: Sha256 | None
    minio_object_name: UUID | None
    vault_etag: str | None
    upload_date: datetime | None
    rejection_reason: RejectionReason | None
    rejection_detail: str | None
    created_at: datetime
    expires_at: datetime

    @property
    def parts(self) -> Parts | None:
        """How it is cut; None: it comes in one PUT."""
        return None if self.part_size is None else Parts(self.size, self.part_size)

    @property
    def served_content_type(self) -> str:
        """The media type this file is shown under; bytes of an undeclared type are only bytes."""
        return self.content_type or "application/octet-stream"


class UnprovedFile(File, frozen=True, kw_only=True):
    """A file in state `pending` or `verifying`. A CHECK ties the key to these states."""

    incoming_key: str


class ProvedFile(File, frozen=True, kw_only=True):
    """A file in state `ready` or `damaged`. CHECKs tie what was proved to these states."""

    hash: Sha256
    minio_object_name: UUID
    vault_etag: str
    upload_date: datetime


def choose_type(state: State) -> type[File]:
    """Return the type of the files in this state."""
    if state in UNPROVED:
        return UnprovedFile
    return ProvedFile if state in PROVED else File


class Claim(msgspec.Struct, frozen=True, kw_only=True):
    """A worker's hold on one file. `vault_key` was written down with it and is written to by nobody else.

    `arrivals` and `grace_over` are what the database said at the claim, so before any look at the store.
    `failed_before`: the claim before this one ended with an error. `failed_reads`: how many reads of
    the incoming object have failed although the store was well.
    """

    id: UUID
    owner: str
    filename: str
    size: int
    content_type: str | None
    declared_sha256: Sha256 | None
    incoming_key: str
    state: State
    lease: UUID
    vault_key: UUID
    attempts: int
    arrivals: int
    grace_over: bool
    failed_before: bool = False
    failed_reads: int = 0


def make_id() -> UUID:
    """A UUIDv7 (RFC 9562, method 3: the 12 bits behind the milliseconds hold the fraction of one)."""
    nanoseconds = time.time_ns()
    milliseconds, rest = divmod(nanoseconds, 1_000_000)
    fraction = (rest << 12) // 1_000_000
    random = int.from_bytes(os.urandom(8)) >> 2
    return UUID(int=milliseconds << 80 | 0x7 << 76 | fraction << 64 | 0b10 << 62 | random)


def decode_column(kind: type, value: Any) -> Any:
    """The msgspec hook for what PostgreSQL stores in another form than we hold it in."""
    if kind is Sha256:
        return Sha256(value)
    raise NotImplementedError(kind)
