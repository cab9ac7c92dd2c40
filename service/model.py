"""The model of a file: its states, what was declared about it, and what was proved.

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
"""The largest object that one PUT, one part or one CopyObject can carry.

S3 defines this limit and the three that follow.
"""
LARGEST_OBJECT_BYTES: Final = 5 * 1024 * GIB
SMALLEST_PART_BYTES: Final = 5 * MIB
"""The smallest size of a part. The last part may be smaller."""
MOST_PARTS: Final = 10_000


class State(StrEnum):
    """The state of a file: what is true of it, and what a client can observe."""

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


class Work(StrEnum):
    """The kind of work that a worker has with an unfinished file. Each kind has its own slots.

    A file in state `pending` needs a look: a check whether the store has an object for it. The
    other kinds are verifications: of files up to 1 MiB, up to 1 GiB, and of larger ones, and of
    those for which failed reads of the object are counted.
    """

    SMALL = "small"
    MEDIUM = "medium"
    LARGE = "large"
    LOOK = "look"
    UNREADABLE = "unreadable"


class RejectionReason(StrEnum):
    """The reason why a file was rejected."""

    SIZE_MISMATCH = "size-mismatch"
    DIGEST_MISMATCH = "digest-mismatch"
    CONTENT_TYPE_MISMATCH = "content-type-mismatch"
    UNVERIFIABLE = "unverifiable"


class Sha256:
    """A SHA-256 digest: 32 bytes, written as 64 lower-case hexadecimal digits.

    It is not a struct, so that msgspec calls the hooks of this project to decode and encode it.
    """

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
        """Parse 64 hexadecimal digits in either case. Raises ValueError."""
        if len(text) != 64 or not all(c in "0123456789abcdefABCDEF" for c in text):
            raise ValueError("expected a SHA-256 as 64 hexadecimal digits")
        return cls(bytes.fromhex(text))


class Rejection(msgspec.Struct, frozen=True):
    """The verdict on a rejected file: `reason` for programs, `detail` for people."""

    reason: RejectionReason
    detail: str


class Parts(msgspec.Struct, frozen=True):
    """A division of `size` bytes into parts, which are numbered from 1 to `count`.

    Each part has `part_size` bytes, except the last one, which has the rest.
    """

    size: int
    part_size: int

    @property
    def count(self) -> int:
        """Return the number of parts. A file of 0 bytes has one part, which is empty."""
        return max(1, -(-self.size // self.part_size))

    def size_of(self, number: int) -> int:
        return (
            self.part_size if number < self.count else self.size - (self.count - 1) * self.part_size
        )


def cut(size: int, *, usual_part_size: int) -> Parts:
    """Divide `size` bytes into parts of the usual size.

    If that would give more than MOST_PARTS parts, use the smallest sufficient size in whole MiB.
    """
    smallest = -(-size // (MOST_PARTS * MIB)) * MIB
    return Parts(size, max(usual_part_size, smallest))


class Declaration(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a client states about a file before it sends the bytes.

    `content_type` is None if the client declared none. It is then never compared. `multipart` is
    None if the client leaves the choice to the service. Fields with their default values are not
    part of the digest of a declaration, so that adding a field changes no digest.
    """

    owner: str
    filename: str
    size: int
    content_type: str | None
    sha256: Sha256 | None
    metadata: dict[str, str]
    multipart: bool | None = None


class File(msgspec.Struct, frozen=True, kw_only=True):
    """One row: what was declared and what was proved. Sizes are in bytes, and times are in UTC.

    The commit sets `hash`, `minio_object_name`, `vault_etag` and `upload_date` together.
    `incoming_key` is None for a streamed upload, whose bytes were never in incoming. `part_size` is
    None for a file that is sent by one PUT. `upload_id` is the id of the store's multipart upload,
    from the time that the upload is begun.
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
        """Return the division into parts, or None if the file is sent by one PUT."""
        return None if self.part_size is None else Parts(self.size, self.part_size)

    @property
    def served_content_type(self) -> str:
        return self.content_type or "application/octet-stream"


class UnprovedFile(File, frozen=True, kw_only=True):
    """A file in state `pending` or `verifying`. A CHECK constraint requires its key."""

    incoming_key: str


class ProvedFile(File, frozen=True, kw_only=True):
    """A file in state `ready` or `damaged`. CHECK constraints require the proved fields."""

    hash: Sha256
    minio_object_name: UUID
    vault_etag: str
    upload_date: datetime


def choose_type(state: State) -> type[File]:
    if state in UNPROVED:
        return UnprovedFile
    return ProvedFile if state in PROVED else File


class Claim(msgspec.Struct, frozen=True, kw_only=True):
    """A worker's hold on one file.

    The claim recorded `vault_key` in a reservation, and no other process writes under this key.
    `arrivals` and `grace_over` are the database's values at the claim, before any request to the
    store. `failed_before` is True if the previous claim ended with an error. `failed_reads` counts
    the failed reads of the incoming object that a successful probe of the store followed.
    """

    id: UUID
    owner: str
    filename: str
    size: int
    content_type: str | None
    declared_sha256: Sha256 | None
    incoming_key: str
    state: State
    work: Work
    lease: UUID
    vault_key: UUID
    attempts: int
    arrivals: int
    grace_over: bool
    failed_before: bool = False
    failed_reads: int = 0


def make_id() -> UUID:
    """Return a UUIDv7 (RFC 9562, section 6.2, method 3).

    The 12 bits after the milliseconds hold the fraction of a millisecond.
    """
    nanoseconds = time.time_ns()
    milliseconds, rest = divmod(nanoseconds, 1_000_000)
    fraction = (rest << 12) // 1_000_000
    random = int.from_bytes(os.urandom(8)) >> 2
    return UUID(int=milliseconds << 80 | 0x7 << 76 | fraction << 64 | 0b10 << 62 | random)


def decode_column(kind: type, value: Any) -> Any:
    """Decode, as msgspec's `dec_hook`, a column whose type in PostgreSQL differs from the model."""
    if kind is Sha256:
        return Sha256(value)
    raise NotImplementedError(kind)
