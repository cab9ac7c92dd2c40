"""Signed tokens, of which no bit can be changed."""

import string
from datetime import UTC, datetime
from uuid import UUID, uuid4

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.auth.tokens import Purpose, Token, read_token, sign_token

SECRETS = ("the newest secret", "an older one")
ALPHABET = string.ascii_letters + string.digits + "-_"
TOKEN = Token(
    purpose=Purpose.DOWNLOAD,
    file_id=UUID("0198f2f4-1c3e-7000-8000-0000000000aa"),
    key_id=UUID("0198f2f4-1c3e-7000-8000-0000000000bb"),
    expires_at=datetime(2026, 11, 22, 20, 0, tzinfo=UTC),
    inline=True,
)

OLD = (
    "jIpFyi3UzOjnm00BumNHRXhlGQcR0cy_Wv2W6bzi98cBAQEBmPL0HD5wAIAA"
    "AAAAAACqAZjy9Bw-cACAAAAAAAAAuwAAAABrA0nA"
)
"""TOKEN, as version 0.1.0 signed it."""


def read(text: str, secrets: tuple[str, ...] = SECRETS) -> Token | None:
    return read_token(secrets, text, purpose=Purpose.DOWNLOAD)


@given(st.uuids(), st.uuids(), st.integers(946684800, 16725225600), st.booleans())
def test_a_signed_token_is_read(file_id: UUID, key_id: UUID, seconds: int, inline: bool) -> None:
    end = datetime.fromtimestamp(seconds, UTC)
    token = Token(
        purpose=Purpose.DOWNLOAD, file_id=file_id, key_id=key_id, expires_at=end, inline=inline
    )
    assert read(sign_token(SECRETS, token)) == token


@pytest.mark.parametrize("inline", [True, False])
@pytest.mark.parametrize("embed", [True, False])
def test_a_token_carries_each_flag_by_itself(*, inline: bool, embed: bool) -> None:
    token = msgspec.structs.replace(TOKEN, inline=inline, embed=embed)
    assert read(sign_token(SECRETS, token)) == token


def test_a_token_of_an_older_version_is_valid() -> None:
    assert read(OLD) == TOKEN


def test_every_changed_character_invalidates_a_token() -> None:
    text = sign_token(SECRETS, TOKEN)
    for place in range(len(text)):
        for character in ALPHABET:
            changed = text[:place] + character + text[place + 1 :]
            assert (read(changed) is None) == (changed != text)


@pytest.mark.parametrize(
    "text", ["", "x", "=" * 100, "\u00e9" * 100, "A" * 100, "A" * 99, "A" * 101, " " * 100]
)
def test_an_invalid_token_is_read_as_none(text: str) -> None:
    assert read(text) is None


@pytest.mark.parametrize("around", ["{}\n", " {}", "{}=", "{}A"])
def test_text_around_a_token_invalidates_it(around: str) -> None:
    assert read(around.format(sign_token(SECRETS, TOKEN))) is None


def test_the_first_secret_signs_and_all_are_accepted() -> None:
    assert read(sign_token(SECRETS[1:], TOKEN)) == TOKEN
    assert read(sign_token(SECRETS, TOKEN), secrets=SECRETS[1:]) is None
    assert read(sign_token(("another",), TOKEN)) is None
    assert read(sign_token(SECRETS, TOKEN), secrets=()) is None


def test_two_tokens_differ_in_their_key_and_file() -> None:
    other = Token(
        purpose=Purpose.DOWNLOAD, file_id=uuid4(), key_id=TOKEN.key_id, expires_at=TOKEN.expires_at
    )
    assert sign_token(SECRETS, other) != sign_token(SECRETS, TOKEN)
