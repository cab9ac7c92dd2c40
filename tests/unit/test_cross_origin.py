"""The headers that a preflight permits, compared with the source of the service."""

import ast
from collections.abc import Iterator
from pathlib import Path

from service.app import list_functions
from service.routes.checks import SINGLE_FIELDS
from service.routes.cross_origin import READ_DIRECTLY, find_header_parameters
from service.routes.downloads import CONDITIONAL_HEADERS

SERVICE = Path(__file__).parents[2] / "service"
SOURCES = [
    path
    for package in (
        "auth",
        "downloads",
        "events",
        "files",
        "http",
        "routes",
        "telemetry",
        "uploads",
    )
    for path in (SERVICE / package).rglob("*.py")
    if SERVICE / "http" / "server" not in path.parents  # which reads the framing
]
NOT_SENT_BY_PAGES = {"content-length", "transfer-encoding"}
"""The headers that a page cannot set (Fetch, "forbidden request-header")."""
HEADERS = {"headers", "request.headers", "self.headers", "connection.headers"}
LEFT_OUT = {"read_conditions", "check_request", "added_headers"}
"""Functions that use names in variables: those of constants that the test knows, or of a response.
"""


def find_reads(source: str) -> Iterator[str]:
    """Yield the name of each request header that the source reads, in lower case.

    The source reads a header by `headers.get(…)`, `headers.getall(…)`, `headers[…]`, `… in
    headers`, or by a comparison with a name in bytes.
    """
    tree = ast.parse(source)
    skipped = {
        id(node)
        for function in ast.walk(tree)
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef)
        and function.name in LEFT_OUT
        for node in ast.walk(function)
    }
    for node in ast.walk(tree):
        if id(node) in skipped:
            continue
        match node:
            case ast.Call(func=ast.Attribute(value=read, attr="get" | "getall"), args=[key, *_]):
                pass
            case ast.Subscript(value=read, slice=key, ctx=ast.Load()):
                pass
            case ast.Compare(left=key, ops=[ast.In() | ast.NotIn()], comparators=[read]):
                pass
            case ast.Compare(
                left=ast.Name(id="name"),
                ops=[ast.Eq()],
                comparators=[ast.Constant(value=bytes() as name)],
            ):
                yield name.decode().lower()
                continue
            case _:
                continue
        if ast.unparse(read) not in HEADERS:
            continue
        if not isinstance(key, ast.Constant):
            yield f"(line {node.lineno}: the name is not a literal)"
        elif isinstance(key.value, str):
            yield key.value.lower()


def test_the_reads_of_a_source_are_found() -> None:
    source = """
a = headers.get("A"), request.headers["b"], "c" in headers, request.headers.getall("D", [])
e = [value for name, value in scope["headers"] if name == b"e"]
f = request.headers.get(name)
headers["Location"] = "of a response"
"""
    assert sorted(find_reads(source)) == [
        "(line 4: the name is not a literal)",
        "a",
        "b",
        "c",
        "d",
        "e",
    ]


def test_a_preflight_permits_every_header_that_the_service_reads() -> None:
    permitted = {
        *READ_DIRECTLY,
        *(name.lower() for name in find_header_parameters(list_functions())),
    }
    read = {name for path in SOURCES for name in find_reads(path.read_text())}
    read |= {name.lower() for name in (*CONDITIONAL_HEADERS, *SINGLE_FIELDS)}
    assert read - permitted - NOT_SENT_BY_PAGES == set()
    assert {"authorization", "content-type", "if-match", "x-request-id"} <= read
