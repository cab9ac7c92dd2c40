"""The commands `assay keys` with a real database."""

import json
from datetime import timedelta

import asyncpg
import pytest

from service.auth.principals import digest_key
from service.cli.errors import CommandError
from service.cli.keys import create, list_all, revoke
from service.database import SchemaError
from service.model import make_id
from service.queries.files import ask_time
from service.queries.keys import Grant, find_grant, list_keys
from service.settings import list_variables

pytestmark = pytest.mark.anyio


@pytest.fixture(autouse=True)
def environ(monkeypatch: pytest.MonkeyPatch, database_url: str) -> None:
    for name in list_variables():
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("ASSAY_DATABASE_URL", database_url)


async def test_a_key_is_printed_once_and_grants_what_was_asked_for(
    pool: asyncpg.Pool, capsys: pytest.CaptureFixture[str]
) -> None:
    await create(owner="ada", scopes="read", name="laptop")
    text = capsys.readouterr().out.strip()
    (key,) = await list_keys(pool)
    assert await find_grant(pool, digest_key(text)) == Grant(key.id, "ada", ["read"], None)
    await list_all(json=True)
    listed = capsys.readouterr().out
    assert [key["name"] for key in json.loads(listed)] == ["laptop"]
    assert text not in listed


async def test_a_key_grants_nothing_after_its_expiry(
    pool: asyncpg.Pool, capsys: pytest.CaptureFixture[str]
) -> None:
    await create(owner="ada", expires="30d")
    (key,) = await list_keys(pool)
    assert key.expires_at is not None
    assert abs(key.expires_at - await ask_time(pool) - timedelta(days=30)) < timedelta(minutes=1)
    await pool.execute("UPDATE api_keys SET expires_at = now() - interval '1 second'")
    assert await find_grant(pool, digest_key(capsys.readouterr().out.strip())) is None


async def test_a_revoked_key_grants_nothing_and_can_be_revoked_again(
    pool: asyncpg.Pool, capsys: pytest.CaptureFixture[str]
) -> None:
    await create(owner="ada")
    text = capsys.readouterr().out.strip()
    (key,) = await list_keys(pool)
    await revoke(key.id)
    await revoke(key.id)
    assert await find_grant(pool, digest_key(text)) is None
    await list_all()
    assert "revoked" in capsys.readouterr().out


async def test_revoking_an_unknown_key_is_an_error() -> None:
    with pytest.raises(CommandError, match="there is no key"):
        await revoke(make_id())


async def test_no_key_is_created_in_another_version_of_the_schema(pool: asyncpg.Pool) -> None:
    await pool.execute("UPDATE alembic_version SET version_num = '9999'")
    with pytest.raises(SchemaError, match="newer than this version of assay"):
        await create(owner="ada")
    assert await list_keys(pool) == []
