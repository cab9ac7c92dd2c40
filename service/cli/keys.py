"""`assay keys`: the API keys.

A key is shown once, at its creation. The database stores only its SHA-256.
"""

import contextlib
import os
import sys
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Final
from uuid import UUID

import asyncpg
import msgspec
from cyclopts import App

from service import database
from service.auth.principals import make_key
from service.cli.errors import CommandError
from service.files.validation import LONGEST_OWNER_BYTES, is_owner
from service.model import make_id
from service.queries.files import ask_time
from service.queries.keys import ApiKey, create_key, list_keys, revoke_key
from service.settings import DatabaseSettings, parse_duration, read_settings

SCOPES: Final = ("read", "write", "admin")
HEADINGS: Final = ("ID", "OWNER", "NAME", "SCOPES", "CREATED", "STATE")

keys: Final = App(name="keys", help="Create, list and revoke API keys.")


@contextlib.asynccontextmanager
async def connect() -> AsyncIterator[asyncpg.Connection]:
    settings = read_settings(os.environ, DatabaseSettings)
    connection = await asyncpg.connect(
        settings.database_url, timeout=5, command_timeout=5, statement_cache_size=0
    )
    try:
        await database.check_version(connection)
        yield connection
    finally:
        await connection.close()


@keys.command
async def create(
    *, owner: str, scopes: str = "read,write", name: str = "", expires: str | None = None
) -> None:
    """Create a key and print it. It is not shown again.

    Parameters
    ----------
    owner
        The owner whose files the key can access.
    scopes
        The key's scopes, separated by commas: `read` (list, fetch, follow and share), `write`
        (send, change and delete, and read the state of a file by its id), `admin` (all of these,
        for every owner).
    name
        A name for the list of keys.
    expires
        The time until the key expires, such as `30d`. Default: it does not expire.
    """
    check_owner(owner)
    wanted, lifetime = parse_scopes(scopes), parse_lifetime(expires)
    text, digest = make_key()
    async with connect() as connection:
        expires_at = None if lifetime is None else await ask_time(connection) + lifetime
        key = await create_key(
            connection,
            key_id=make_id(),
            owner=owner,
            name=name,
            secret=digest,
            scopes=wanted,
            expires_at=expires_at,
        )
    print(text)
    print(f"key {key.id} of {owner}: {describe_state(key)}; it is not shown again", file=sys.stderr)


@keys.command(name="list")
async def list_all(*, json: bool = False) -> None:
    """List all keys, without their secrets.

    Parameters
    ----------
    json
        Print JSON.
    """
    async with connect() as connection:
        found = await list_keys(connection)
    print(msgspec.json.encode(found).decode() if json else describe_keys(found))


@keys.command
async def revoke(key_id: UUID, /) -> None:
    """Revoke a key at once.

    Parameters
    ----------
    key_id
        The id that `assay keys list` shows.
    """
    async with connect() as connection:
        if not await revoke_key(connection, key_id):
            raise CommandError(f"there is no key {key_id}; `assay keys list` shows all keys")
    print(f"{key_id} is revoked")


def check_owner(owner: str) -> None:
    if not is_owner(owner):
        raise CommandError(
            f"--owner must be a name of 1 to {LONGEST_OWNER_BYTES} bytes without control characters"
        )


def parse_scopes(text: str) -> list[str]:
    scopes = [scope.strip() for scope in text.split(",")]
    if not set(scopes) <= set(SCOPES):
        raise CommandError(
            f"--scopes must be one or more of {', '.join(SCOPES)}, separated by commas"
        )
    return sorted(set(scopes), key=SCOPES.index)


def parse_lifetime(text: str | None) -> timedelta | None:
    try:
        return None if text is None else parse_duration(text)
    except ValueError as error:
        raise CommandError(f"--expires {error}") from error


def describe_keys(found: list[ApiKey]) -> str:
    rows = [
        HEADINGS,
        *(
            (
                str(key.id),
                key.owner,
                key.name,
                ",".join(key.scopes),
                f"{key.created_at:%Y-%m-%d}",
                describe_state(key),
            )
            for key in found
        ),
    ]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows)


def describe_state(key: ApiKey) -> str:
    if key.revoked_at is not None:
        return f"revoked {key.revoked_at:%Y-%m-%d %H:%M}"
    return (
        "never expires"
        if key.expires_at is None
        else f"expires {key.expires_at:%Y-%m-%d %H:%M} UTC"
    )
