"""Tests of the OpenAPI document and its page.

The document is complete and correct. The page loads no file from another origin.
"""

import asyncio
import json
import re
from pathlib import Path
from typing import Any

import httpx
import pytest

from service.events import feed
from tests.e2e.conftest import Api, Owner
from tests.e2e.jobs import read_metric, stream
from tests.e2e.rights import GUARDED
from tests.support.generated_requests import (
    command_for,
    give_example,
    list_operations,
    shorten_waits,
)
from tests.support.servers import store_kinds

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.parametrize("store", store_kinds()[:1], indirect=True),
]  # the document does not depend on the store

EXAMPLES = 50
"""The number of generated requests for each route, besides the examples of the document."""
LINKS = {"/l/{token}", "/l/{token}/{filename}"}
OPEN = {"/health/live", "/health/ready", "/metrics", "/webhooks/minio", *LINKS}


@pytest.fixture
async def document(api: Api, anonymous: httpx.AsyncClient) -> dict[str, Any]:
    answer = await anonymous.get(f"{api.url}/schema")
    assert answer.headers["content-type"] == "application/json"
    found: dict[str, Any] = answer.json()
    return found


async def test_every_operation_has_a_summary_tags_and_a_unique_id(
    document: dict[str, Any],
) -> None:
    assert document["openapi"].startswith("3.1")
    ids = [operation["operationId"] for _, _, operation in list_operations(document)]
    assert len(ids) == len(set(ids))
    assert all(
        operation["summary"] and operation["tags"] for _, _, operation in list_operations(document)
    )


async def test_every_refusal_is_described_as_a_problem_document(document: dict[str, Any]) -> None:
    for path, method, operation in list_operations(document):
        for status, answer in operation["responses"].items():
            if int(status) >= 400 and path != "/health/ready":
                content = answer["content"]["application/problem+json"]
                assert content["schema"] == {"$ref": "#/components/schemas/ProblemDocument"}, (
                    path,
                    method,
                    status,
                )
                assert content["examples"], (path, method, status)


async def test_a_body_with_the_bytes_of_a_file_is_an_octet_stream(document: dict[str, Any]) -> None:
    for path in ("/files/{file_id}", *LINKS):
        for status in ("200", "206"):
            content = document["paths"][path]["get"]["responses"][status]["content"]
            # A generator of clients omits `*/*`, by which a checker accepts the file's own type.
            assert list(content) == ["application/octet-stream", "*/*"]
            assert content["application/octet-stream"]["schema"]["type"] == "string"
    for path, method in (("/files/upload", "post"), ("/upload/{filename}", "put")):
        assert (
            "application/octet-stream" in document["paths"][path][method]["requestBody"]["content"]
        )


async def test_every_route_that_is_not_public_names_its_scopes(
    document: dict[str, Any],
) -> None:
    for name in ("bearer", "uploadToken"):
        scheme = document["components"]["securitySchemes"][name]
        assert (scheme["type"], scheme["scheme"]) == ("http", "bearer")
    needs = {(route.method.lower(), route.path): route for route in GUARDED}
    for path, method, operation in list_operations(document):
        if path not in OPEN:
            route = needs[method, path]
            alternatives = [{"bearer": [scope]} for scope in sorted(route.scopes)] + [
                {"uploadToken": []}
            ] * route.token
            assert operation["security"] == alternatives
            assert {"401", "403", "503"} <= set(operation["responses"])


async def test_the_page_loads_no_file_from_another_origin(
    api: Api, anonymous: httpx.AsyncClient
) -> None:
    page = await anonymous.get(f"{api.url}/schema", headers={"Accept": "text/html,*/*"})
    assert page.headers["content-type"].startswith("text/html")
    assert "default-src 'none'" in page.headers["content-security-policy"]
    assert "unsafe" not in page.headers["content-security-policy"]
    named = re.findall(r'(?:src|href|data-document)="([^"]+)"', page.text)
    assert len(named) == 5
    for path in named:
        if not path.startswith("data:"):
            assert path.startswith("/schema/")
            assert (await anonymous.get(api.url + path)).status_code == 200
    assert (await anonymous.get(f"{api.url}/schema/nothing.js")).headers[
        "content-type"
    ] == "application/problem+json"


@pytest.mark.slow
@pytest.mark.timeout(900)  # hundreds of requests on a busy machine
async def test_all_generated_requests_get_documented_responses(
    api: Api,
    owner: Owner,
    client: httpx.AsyncClient,
    document: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shorten_waits(document)
    # Schemathesis reads every response to its end, also those of event streams.
    monkeypatch.setattr(feed, "LONGEST_SECONDS", 0.1)
    ready = await stream(client, b"what was sent")
    give_example(document, "file_id", ready["id"])
    before = await count_downloads(client)
    output = await attack(api, document, tmp_path, token=owner.key)
    assert f"Tested: {len(list(list_operations(document)))}\n" in output
    assert await count_downloads(client) > before


async def count_downloads(client: httpx.AsyncClient) -> float:
    return await read_metric(
        client, "assay_requests_total", route="/files/{file_id}", method="GET", status="200"
    )


@pytest.mark.timeout(900)
async def test_all_generated_events_get_documented_responses(
    api: Api, client: httpx.AsyncClient, document: dict[str, Any], tmp_path: Path
) -> None:
    hook = document["paths"]["/webhooks/minio"]
    hook["post"]["requestBody"]["content"]["application/json"]["schema"] = describe_events(
        api.settings.incoming_bucket
    )
    document["paths"] = {"/webhooks/minio": hook}
    before = await read_metric(
        client, "assay_requests_total", route="/webhooks/minio", status="204"
    )
    output = await attack(api, document, tmp_path, token=api.settings.webhook_token[0])
    assert "Tested: 1\n" in output
    assert (
        await read_metric(client, "assay_requests_total", route="/webhooks/minio", status="204")
        >= before + EXAMPLES
    )


def describe_events(bucket: str) -> dict[str, Any]:
    """Return a schema of events like those of the store.

    The OpenAPI document permits any JSON for events. Events that are generated from it alone would
    not reach the code behind the parser.
    """

    def describe(**members: Any) -> dict[str, Any]:
        return {"type": "object", "properties": members, "required": list(members)}

    key = {"anyOf": [{"type": "string", "pattern": "^[0-9a-f]{32}$"}, {"type": "string"}]}
    about = describe(
        bucket=describe(name={"enum": [bucket, "", "another"]}), object=describe(key=key)
    )
    record = describe(
        eventName={
            "enum": ["s3:ObjectCreated:Put", "ObjectCreated:Copy", "s3:ObjectRemoved:Delete"]
        },
        s3=about,
    )
    return describe(Records={"type": "array", "items": record})


async def attack(api: Api, document: dict[str, Any], folder: Path, *, token: str) -> str:
    """Run Schemathesis, check that it found no failure, and return its output."""
    described = folder / "openapi.json"
    described.write_text(json.dumps(document))
    command = command_for(str(described), api.url, key=token)
    process = await asyncio.create_subprocess_exec(
        *command,
        "--max-examples",
        str(EXAMPLES),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        cwd=folder,
    )
    output, _ = await process.communicate()
    assert process.returncode == 0, output.decode()
    return output.decode()
