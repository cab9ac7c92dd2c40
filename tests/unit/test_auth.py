"""Keys and scopes, without a database."""

import re
from uuid import UUID

import pytest

from service.auth import Principal, check_scope, digest_key, make_key, parse_authorization
from service.problems import Forbidden, Unauthorized


def principal(*scopes: str) -> Principal:
    return Principal(UUID(int=1), "ann", frozenset(scopes))


def test_a_key_has_256_random_bits_and_is_stored_as_its_digest() -> None:
    text, secret = make_key()
    assert re.fullmatch(r"assay_[A-Za-z0-9_-]{43}", text)
    assert digest_key(text) == secret
    assert make_key()[0] != text


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER"])
def test_the_scheme_is_read_in_any_case(scheme: str) -> None:
    key, _ = make_key()
    assert parse_authorization(f"{scheme} {key}") == key


@pytest.mark.parametrize("header", [None, "", "Bearer", "Bearer ", "Basic YTpi", "Bearer assay_short", f"assay_{'a' * 43}", "Bearer é"])
def test_anything_else_is_no_key(header: str | None) -> None:
    with pytest.raises(Unauthorized):
        parse_authorization(header)


@pytest.mark.parametrize(("scope", "method"), [("read", "GET"), ("read", "HEAD"), ("write", "POST"), ("write", "PUT"), ("write", "DELETE")])
def test_each_method_needs_its_scope_and_no_other(scope: str, method: str) -> None:
    check_scope(principal(scope), method, for_senders=False)
    check_scope(principal("admin"), method, for_senders=False)
    other = {"read": "write", "write": "read"}[scope]
    with pytest.raises(Forbidden, match=scope):
        check_scope(principal(other), method, for_senders=False)


def test_a_sender_needs_no_scope_but_write() -> None:
    for method in ("GET", "POST", "DELETE"):
        check_scope(principal("write"), method, for_senders=True)
    check_scope(principal("read"), "GET", for_senders=True)
    with pytest.raises(Forbidden, match="write"):
        check_scope(principal("read"), "POST", for_senders=True)
    with pytest.raises(Forbidden, match="read"):
        check_scope(principal(), "GET", for_senders=True)


def test_only_an_admin_acts_for_others() -> None:
    assert principal("read").acting_for == "ann"
    assert principal("admin").acting_for is None
    assert principal("read").act_as("ann") == principal("read").act_as(None) == "ann"
    assert principal("admin").act_as("bob") == "bob"
    with pytest.raises(Forbidden):
        principal("read", "write").act_as("bob")
