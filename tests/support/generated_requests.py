"""Requests that Schemathesis generates from the OpenAPI document."""

import sys
from collections.abc import Iterator
from typing import Any, Final

CHECKS: Final = (
    "not_a_server_error,status_code_conformance,content_type_conformance,"
    "response_schema_conformance,response_headers_conformance"
)
METHODS: Final = {"get", "put", "post", "delete", "patch", "head"}


def list_operations(document: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Yield the path, the method and the description of each operation."""
    for path, item in document["paths"].items():
        for method, one in item.items():
            if method in METHODS:
                yield path, method, one


def give_example(document: dict[str, Any], name: str, value: str) -> None:
    """Add the value as an example of the parameter to all operations except DELETE."""
    for _, method, operation in list_operations(document):
        for parameter in operation.get("parameters", []):
            if parameter["name"] == name and method != "delete":
                parameter["examples"] = {"ready": {"value": value}}


def shorten_waits(document: dict[str, Any]) -> None:
    """Limit the parameter `wait` to one second.

    Schemathesis learns the ids of pending files, and would wait for them up to the maximum.
    """
    for _, _, operation in list_operations(document):
        for parameter in operation.get("parameters", []):
            if parameter["name"] == "wait":
                parameter["schema"]["maximum"] = 1


def command_for(document: str, url: str, *, key: str) -> list[str]:
    """Return the command that runs Schemathesis with the document at this path or URL."""
    command = [sys.executable, "-c", "from schemathesis.cli import schemathesis; schemathesis()"]
    command += ["run", document, "--url", url, "--no-color", "--checks", CHECKS]
    command += ["--phases", "examples,coverage,fuzzing", "--generation-database", "none"]
    return [*command, "--header", f"Authorization: Bearer {key}"]
