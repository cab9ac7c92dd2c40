"""Problems, each of which has its own type and a row in docs/problems.md."""

import re
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from service.problems import InvalidRequest, Problem, Unauthorized, Unavailable

REGISTRY = Path(__file__).parents[2] / "docs" / "problems.md"


def walk(kind: type[Problem]) -> Iterator[type[Problem]]:
    for child in kind.__subclasses__():
        yield child
        yield from walk(child)


KINDS = sorted(walk(Problem), key=lambda kind: kind.__name__)
DOCUMENTED = dict(
    re.findall(r"^\| `([a-z-]+)` \| (\d{3}) \|", REGISTRY.read_text(), flags=re.MULTILINE)
)


def test_no_two_problems_share_a_type() -> None:
    types = [kind.type for kind in KINDS]
    assert len(types) == len(set(types))


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.type)
def test_every_problem_is_documented_with_its_status(kind: type[Problem]) -> None:
    assert DOCUMENTED[kind.type] == str(kind.status)
    assert kind.__doc__


def test_the_registry_documents_nothing_else() -> None:
    assert set(DOCUMENTED) == {kind.type for kind in KINDS}


def test_a_document_has_the_members_of_rfc_9457() -> None:
    problem = InvalidRequest.at("size", "is negative", limit=3)
    assert msgspec.json.decode(msgspec.json.encode(problem.document())) == {
        "type": "urn:assay:problem:invalid-request",
        "title": "The request is not valid",
        "status": 400,
        "detail": "size: is negative",
        "errors": [{"field": "size", "detail": "is negative"}],
        "limit": 3,
    }


def test_a_client_without_a_key_gets_the_scheme() -> None:
    assert Unauthorized().headers["WWW-Authenticate"].startswith("Bearer")


def test_a_problem_that_permits_a_retry_says_when() -> None:
    assert int(Unavailable().headers["Retry-After"]) > 0
