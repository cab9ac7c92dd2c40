"""Downloads whose bytes nginx reads from the store itself, by `X-Accel-Redirect`.

The responses are compared with those that the API sends without nginx.
"""

import asyncio
import os
import subprocess
from pathlib import Path
from typing import Any

import httpx
import pytest

from service.object_store import Bucket
from service.resources import Resources
from tests.e2e.conftest import ACCEL, Api, Behind
from tests.e2e.jobs import check_all, digest, prove
from tests.e2e.leaks import keep_link_secret
from tests.support.programs import find_program
from tests.support.servers import store_kinds
from tests.support.stores import open_root_store
from tests.support.trust import TRUSTED

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.parametrize("behind", [f"{kind} accel" for kind in store_kinds()], indirect=True),
]
BODY = os.urandom(300_000)
SECRET = {"X-Assay-Accel": str(ACCEL["accel_secret"])}
OF_THE_STORE = ("x-amz-", "x-minio-", "x-ratelimit-", "x-accel-", "x-assay-")
HOP_BY_HOP = {"date", "server", "connection", "x-request-id", "x-accel-buffering"}


@pytest.fixture
def api(behind: Behind) -> Api:
    return behind.api


@pytest.fixture
async def file(client: httpx.AsyncClient) -> dict[str, Any]:
    return await prove(client, BODY, filename="photo ü.jpg", content_type="image/jpeg")


@pytest.fixture
async def direct(behind: Behind, client: httpx.AsyncClient) -> Any:
    async with httpx.AsyncClient(
        base_url=behind.direct, headers=client.headers, verify=TRUSTED
    ) as direct:
        yield direct


def fields_of(answer: httpx.Response) -> dict[str, str]:
    return {name: value for name, value in answer.headers.items() if name not in HOP_BY_HOP}


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"Range": "bytes=0-0"},
        {"Range": "bytes=1000-1999"},
        {"Range": "bytes=-1000"},
        {"Range": "bytes=299999-"},
        {"Range": "bytes=0-1,5-6"},
        {"Range": "bytes=300000-"},
        {"Range": "bytes=5-", "If-Range": '"other"'},
        {"If-None-Match": "*"},
        {"If-Match": '"other"'},
        {"If-Modified-Since": "Fri, 31 Dec 2100 23:59:59 GMT"},
        {"If-Unmodified-Since": "Fri, 31 Dec 1999 23:59:59 GMT"},
        {"Accept-Encoding": "gzip", "Cookie": "a=b", "X-Amz-Date": "20000101T000000Z"},
        {"Origin": "https://app.example.com"},
    ],
    ids=str,
)
@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_a_response_is_the_same_as_without_nginx(
    client: httpx.AsyncClient,
    direct: httpx.AsyncClient,
    file: dict[str, Any],
    method: str,
    fields: dict[str, str],
) -> None:
    through = await client.request(method, f"/files/{file['id']}", headers=fields)
    its = await direct.request(method, f"/files/{file['id']}", headers=fields)
    assert through.status_code == its.status_code
    assert fields_of(through) == fields_of(its)
    assert through.content == its.content


async def test_the_bytes_come_from_the_store(
    client: httpx.AsyncClient, direct: httpx.AsyncClient, file: dict[str, Any], api: Api
) -> None:
    answer = await direct.get(f"/files/{file['id']}", headers={**SECRET, "Range": "bytes=5-9"})
    assert (answer.status_code, answer.content) == (200, b"")
    assert answer.headers["x-accel-redirect"].startswith(f"/vault/{api.deployment.vault_bucket}/")
    assert answer.headers["x-assay-store-range"] == "bytes=5-9"
    signed = answer.headers["x-assay-store-authorization"]
    assert "host;if-match;range;x-amz-content-sha256;x-amz-date" in signed
    assert f"Credential={api.deployment.s3_reader_access_key}/" in signed
    head = await direct.head(f"/files/{file['id']}", headers=SECRET)
    assert "x-accel-redirect" not in head.headers


@pytest.mark.parametrize(
    "secret", ["", "wrong", str(ACCEL["accel_secret"])[:-1]], ids=["none", "wrong", "shortened"]
)
async def test_without_the_secret_the_api_sends_the_bytes(
    direct: httpx.AsyncClient, file: dict[str, Any], secret: str
) -> None:
    answer = await direct.get(f"/files/{file['id']}", headers={"X-Assay-Accel": secret})
    assert answer.content == BODY
    assert "x-accel-redirect" not in answer.headers
    assert not [name for name in answer.headers if name.startswith("x-assay-")]


async def test_a_client_cannot_reach_the_vault(
    client: httpx.AsyncClient, file: dict[str, Any], resources: Resources, api: Api
) -> None:
    name = await find_object(resources, file)
    bucket = resources.vault.name
    for path in (f"/vault/{bucket}/{name}", "/vault/", f"/vault//{bucket}/{name}", "//vault/"):
        assert (await client.get(api.url + path)).status_code == 404, path
    forged = {"X-Accel-Redirect": f"/vault/{bucket}/{name}", "X-Assay-Store-Range": "bytes=0-1"}
    assert (await client.get(f"/files/{file['id']}", headers=forged)).content == BODY


async def find_object(resources: Resources, file: dict[str, Any]) -> str:
    found = await resources.pool.fetchval(
        "SELECT minio_object_name FROM files WHERE id = $1", file["id"]
    )
    return str(found)


async def test_a_link_is_answered_by_nginx(
    client: httpx.AsyncClient, anonymous: httpx.AsyncClient, file: dict[str, Any], behind: Behind
) -> None:
    made = await client.post(f"/files/{file['id']}/links", json={"expires_in": 3600, "embed": True})
    link = made.json()["url"]
    keep_link_secret(link)
    answer = await anonymous.get(link, headers={"Range": "bytes=10-19"})
    assert (answer.status_code, answer.content) == (206, BODY[10:20])
    assert answer.headers["cross-origin-resource-policy"] == "cross-origin"
    assert "photo" in answer.headers["content-disposition"]
    assert "/l/" not in behind.nginx.read_logs().replace("/l/...", "")


async def test_a_deleted_file_is_gone(
    client: httpx.AsyncClient, file: dict[str, Any], resources: Resources
) -> None:
    assert (await client.get(f"/files/{file['id']}")).content == BODY
    assert (await client.delete(f"/files/{file['id']}")).status_code == 204
    assert (await client.get(f"/files/{file['id']}")).status_code == 410
    await check_all(resources)


async def test_an_object_that_is_missing_or_altered_is_reported_by_the_api(
    client: httpx.AsyncClient, file: dict[str, Any], resources: Resources, api: Api
) -> None:
    key = await find_object(resources, file)
    deployment = api.deployment
    with open_root_store(deployment) as root:
        vault: Bucket = root.bucket(deployment.vault_bucket)
        await vault.put(
            key,
            b"another body",
            content_type="text/plain",
            metadata={},
            tags={},
            sha256=digest(b"another body"),
            timeout_seconds=30,
        )
        answer = await client.get(f"/files/{file['id']}")
        assert answer.status_code == 502
        assert answer.json()["type"].endswith(":file-damaged")
        await vault.delete(key)
    answer = await client.get(f"/files/{file['id']}", headers={"Range": "bytes=0-9"})
    assert answer.status_code == 502
    assert answer.headers["content-type"] == "application/problem+json"
    assert not {"content-disposition", "accept-ranges", "etag"} & answer.headers.keys()
    await resources.pool.execute("DELETE FROM files WHERE id = $1", file["id"])


@pytest.mark.parametrize("program", ["curl", "wget", "aria2c"])
async def test_a_client_resumes_a_download(
    client: httpx.AsyncClient, file: dict[str, Any], tmp_path: Path, api: Api, program: str
) -> None:
    path = tmp_path / "part"
    path.write_bytes(BODY[:100_000])
    url = f"{api.url}/files/{file['id']}"
    field = f"Authorization: {client.headers['Authorization']}"
    commands: dict[str, list[str | Path]] = {
        "curl": ["-sS", "-f", "-C", "-", "-H", field, "-o", path, url],
        "wget": ["-q", "-c", f"--header={field}", "-O", path, url],
        "aria2c": ["-q", "-c", f"--header={field}", "-d", tmp_path, "-o", path.name, url],
    }
    found = find_program(program, {"aria2c": "aria2"}.get(program, program))
    command = [str(word) for word in (found, *commands[program])]
    ended = await asyncio.to_thread(
        subprocess.run, command, capture_output=True, text=True, timeout=120, check=False
    )
    assert ended.returncode == 0, ended.stderr
    assert path.read_bytes() == BODY


@pytest.mark.parametrize("fields", [{}, {"Range": "bytes=7-1006"}], ids=str)
async def test_the_api_sends_what_the_store_does_not_send_to_nginx(
    client: httpx.AsyncClient,
    direct: httpx.AsyncClient,
    file: dict[str, Any],
    behind: Behind,
    fields: dict[str, str],
) -> None:
    its = await direct.get(f"/files/{file['id']}", headers=fields)
    try:
        for disturb in (behind.way.cut, behind.way.fail):
            disturb()
            answer = await client.get(f"/files/{file['id']}", headers=fields)
            assert answer.status_code == its.status_code
            assert fields_of(answer) == fields_of(its)
            assert answer.content == its.content
            behind.way.restore()
    finally:
        behind.way.restore()
    assert "Signature" not in behind.nginx.read_logs()


async def test_a_body_that_ends_early_does_not_look_complete(
    client: httpx.AsyncClient, file: dict[str, Any], behind: Behind
) -> None:
    behind.way.cut_answers_after = 100_000
    try:
        with pytest.raises(httpx.RemoteProtocolError):
            await client.get(f"/files/{file['id']}")
    finally:
        behind.way.restore()


async def test_no_signature_is_in_a_log(
    client: httpx.AsyncClient, file: dict[str, Any], behind: Behind
) -> None:
    assert (await client.get(f"/files/{file['id']}")).status_code == 200
    logs = behind.nginx.read_logs()
    assert "GET /vault/... 200" in logs
    assert "Signature" not in logs
    assert str(behind.api.settings.s3_reader_access_key) not in logs


async def test_the_details_of_the_object_do_not_reach_the_client(
    client: httpx.AsyncClient, file: dict[str, Any]
) -> None:
    answer = await client.get(f"/files/{file['id']}")
    assert [name for name in answer.headers if name.startswith(OF_THE_STORE)] == []
