"""API keys and scopes, without a database."""

import re
from typing import Any
from uuid import UUID

import pytest
from litestar import Request, get

from service.auth.principals import (
    Principal,
    UndeclaredRights,
    check_scope,
    digest_key,
    guard_routes,
    make_key,
    open_to,
    parse_authorization,
)
from service.problems import Forbidden, Unauthorized
from service.routes.checks import check_request


def principal(*scopes: str) -> Principal:
    return Principal(UUID(int=1), "ann", frozenset(scopes))


def test_a_key_has_256_random_bits_and_is_stored_as_its_digest() -> None:
    text, secret = make_key()
    assert re.fullmatch(r"assay_[A-Za-z0-9_-]{43}", text)
    assert digest_key(text) == secret
    assert make_key()[0] != text


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER"])
def test_the_scheme_is_case_insensitive(scheme: str) -> None:
    key, _ = make_key()
    assert parse_authorization(f"{scheme} {key}") == key


@pytest.mark.parametrize(
    "header",
    [
        None,
        "",
        "Bearer",
        "Bearer ",
        "Basic YTpi",
        "Bearer assay_short",
        f"assay_{'a' * 43}",
        "Bearer é",
    ],
)
def test_an_invalid_authorization_header_is_refused(header: str | None) -> None:
    with pytest.raises(Unauthorized):
        parse_authorization(header)


@pytest.mark.parametrize("scopes", [{"read"}, {"write"}, {"read", "write"}])
def test_a_key_needs_one_of_the_scopes_that_a_route_declares(scopes: set[str]) -> None:
    for scope in {*scopes, "admin"}:
        check_scope(principal(scope), frozenset(scopes))
    for other in {"read", "write"} - scopes:
        with pytest.raises(Forbidden, match=f"lacks the scope {' or '.join(scopes)}"):
            check_scope(principal(other), frozenset(scopes))


@get("/undeclared")
async def read_undeclared() -> None:
    """Serve a route that declares no scope."""


@get("/declared", **open_to("read"))
async def read_declared() -> None:
    """Serve a route that declares its scope."""


def test_no_app_starts_with_a_route_that_declares_no_scope() -> None:
    guard_routes([read_declared], then=check_request)
    with pytest.raises(UndeclaredRights, match="read_undeclared"):
        guard_routes([read_declared, read_undeclared], then=check_request)


async def do_nothing(_: Request[Any, Any, Any]) -> None:
    pass


@get("/hooked", **open_to("read"), before_request=do_nothing)
async def read_hooked() -> None:
    """Serve a route whose hook would run in place of the check of the key."""


def test_no_app_starts_with_a_route_that_skips_the_check_of_the_key() -> None:
    with pytest.raises(UndeclaredRights, match="read_hooked"):
        guard_routes([read_hooked], then=check_request)


def test_only_an_admin_acts_for_other_owners() -> None:
    assert principal("read").acting_for == "ann"
    assert principal("admin").acting_for is None
    assert principal("read").act_as("ann") == principal("read").act_as(None) == "ann"
    assert principal("admin").act_as("bob") == "bob"
    with pytest.raises(Forbidden):
        principal("read", "write").act_as("bob")
