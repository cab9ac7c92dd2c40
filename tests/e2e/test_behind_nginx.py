"""Tests of clients behind nginx.

nginx sends signed PUTs to the store and all other requests to the API, and buffers nothing on disk.
"""

import asyncio
import os
import secrets
import subprocess
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest

from service.operations.doctor import examine
from service.operations.doctor.url_conditions import BEFORE_STORE
from service.resources import Resources, make_signer
from service.settings import Url
from service.uploads.declaring import PART_BYTES
from tests.e2e.conftest import Api, Behind, Owner
from tests.e2e.jobs import (
    check_all,
    check_served,
    complete,
    cut,
    declare,
    digest,
    in_pieces,
    look_at,
    put,
    put_part,
    read_metadata,
    sign_parts,
    upload,
)
from tests.e2e.leaks import check_log, keep_link_secret
from tests.e2e.nginx import Nginx, Servers, make_certificate, running_nginx
from tests.support.examining import failures
from tests.support.presigned import BODY, content, name_server, sign
from tests.support.servers import free_port
from tests.support.waiting import until

pytestmark = pytest.mark.anyio
MIB = 1024**2
STATUS = ("-sS", "-o", "/dev/null", "-w", "%{http_code} %{http_version} %{redirect_url}")


@pytest.fixture
def api(behind: Behind) -> Api:
    return behind.api


async def curl(*arguments: str | Path, piped: str = "") -> str:
    """Run curl with `piped` as its standard input, and return its output.

    Fails if the exit status is not 0.
    """
    command = ["curl", *arguments]
    ended = await asyncio.to_thread(
        subprocess.run,
        command,
        input=piped,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout


async def test_a_file_is_uploaded_and_downloaded_at_one_address(
    client: httpx.AsyncClient, resources: Resources, behind: Behind
) -> None:
    declared = await upload(client, BODY)
    assert declared["upload"]["url"].startswith(f"{behind.nginx.url}/{resources.incoming.name}/")
    assert (await read_metadata(client, declared, wait=20))["state"] == "ready"
    await check_served(client, resources, declared, BODY)
    half = await client.get(
        f"/files/{declared['file']['id']}", headers={"Range": f"bytes={len(BODY) // 2}-"}
    )
    assert (half.status_code, half.content) == (206, BODY[len(BODY) // 2 :])


@pytest.mark.parametrize("size", [0, 300_000, 5 * MIB])
async def test_curl_follows_its_redirect_to_the_same_host(
    client: httpx.AsyncClient, behind: Behind, owner: Owner, tmp_path: Path, size: int
) -> None:
    """Check that the store does not receive curl's Authorization header, which it would refuse."""
    photo = tmp_path / "photo.jpg"
    photo.write_bytes(body := os.urandom(size))
    authorization = f"Authorization: Bearer {owner.key}"
    # The API answers while curl sends the body. A connection reset would lose some of the
    # responses.
    for _ in range(15):
        said = await curl(
            *STATUS[:-1],
            "%{http_code} %{num_redirects}",
            "-LT",
            photo,
            "-H",
            authorization,
            f"{behind.nginx.url}/upload/",
        )
        assert said == "200 1"
    (newest, *_) = (await client.get("/files", params={"limit": 1})).json()["files"]
    metadata = await read_metadata(client, {"file": newest}, wait=20)
    assert (metadata["state"], metadata["hash"]) == ("ready", digest(body))


async def test_a_refusal_in_the_middle_of_a_large_body_reaches_the_client(
    client: httpx.AsyncClient, tmp_path: Path
) -> None:
    """Check that the client gets 403 and not 502.

    Clients request a fresh URL after 403, and only retry after 502.
    """
    (large := tmp_path / "large").write_bytes(bytes(20 * MIB))
    declared = await declare(client, large.read_bytes())
    forged = declared["upload"]["url"][:-64] + "0" * 64
    headers = [
        part
        for name, value in declared["upload"]["headers"].items()
        for part in ("-H", f"{name}: {value}")
    ]
    said = [
        await curl(*STATUS[:-1], "%{http_code}", "-T", large, *headers, forged) for _ in range(10)
    ]
    assert set(said) == {"403"}


async def test_nginx_writes_nothing_of_200_mib_to_its_disk(
    client: httpx.AsyncClient, behind: Behind, tmp_path: Path
) -> None:
    large, copy = tmp_path / "large", tmp_path / "copy"
    large.write_bytes(body := os.urandom(MIB) * 200)
    declared = await declare(client, body, sha256=digest(body), multipart=False)
    headers = [
        part
        for name, value in declared["upload"]["headers"].items()
        for part in ("-H", f"{name}: {value}")
    ]
    assert (
        await curl(*STATUS[:-1], "%{http_code}", "-T", large, *headers, declared["upload"]["url"])
    ) == "200"
    assert (await complete(client, declared))["state"] == "ready"
    file = f"{behind.nginx.url}/files/{declared['file']['id']}"
    await curl(
        "-sS", "--fail", "-o", copy, "-H", f"Authorization: {client.headers['authorization']}", file
    )
    assert digest(copy.read_bytes()) == digest(body)
    streamed = await client.post(
        "/files/upload", params={"filename": "a"}, content=in_pieces(body, MIB), timeout=120
    )
    assert (streamed.status_code, streamed.json()["hash"]) == (201, digest(body))
    assert behind.nginx.buffered() == []


async def test_the_default_buffering_of_nginx_is_detected(
    client: httpx.AsyncClient, behind: Behind, folder: Path
) -> None:
    body = os.urandom(MIB)
    with beside(behind, folder, buffering=True) as nginx:
        assert (
            await client.post(f"{nginx.url}/files/upload", params={"filename": "a"}, content=body)
        ).status_code == 201
        assert nginx.buffered() != []


def beside(
    behind: Behind, folder: Path, *, store: str | None = None, **other: Any
) -> AbstractContextManager[Nginx]:
    """Run a second nginx in front of the same servers.

    URLs that are signed for the address of the first nginx are not valid here.
    """
    api, own = [
        url.removeprefix("http://") for url in (behind.direct, behind.api.deployment.s3_endpoint)
    ]
    servers = Servers(api=api, store=store or own, bucket=behind.api.deployment.incoming_bucket)
    return running_nginx(folder / f"nginx-{secrets.token_hex(4)}", free_port(), servers, **other)


async def test_long_polling_is_answered_when_the_file_is_final(client: httpx.AsyncClient) -> None:
    declared = await declare(client, BODY)
    waiting = asyncio.create_task(read_metadata(client, declared, wait=50))
    assert (await put(declared, BODY)).status == 200
    async with asyncio.timeout(20):
        assert (await waiting)["state"] == "ready"


async def test_a_response_is_forwarded_piece_by_piece(
    client: httpx.AsyncClient, behind: Behind
) -> None:
    """Check that the client has the start of a download before it reads the rest."""
    body = os.urandom(20 * MIB)
    declared = await upload(client, body)
    await complete(client, declared)
    async with client.stream("GET", f"/files/{declared['file']['id']}") as answer:
        pieces = answer.aiter_bytes(1000)
        assert await anext(pieces) == body[:1000]
        assert answer.headers["content-length"] == str(len(body))
    assert behind.nginx.buffered() == []


async def test_a_file_is_sent_in_parts(client: httpx.AsyncClient, resources: Resources) -> None:
    """Check also that a part cannot be a copy of an object in the vault."""
    victim = await upload(client, b"not yours")
    await complete(client, victim)
    body = secrets.token_bytes(MIB) * (PART_BYTES // MIB) + b"and what is left"
    declared = await declare(client, body, multipart=True)
    copy = {
        "x-amz-copy-source": f"/{resources.vault.name}/"
        f"{(await look_at(resources, victim)).row['minio_object_name']}"
    }
    for number, piece in cut(declared, body).items():
        (part,) = await sign_parts(client, declared, number, sha256=digest(piece))
        assert (await put_part(part, piece, copy)).status == 200
    assert [
        part["number"]
        for part in (await client.get(f"/files/{declared['file']['id']}/parts")).json()["parts"]
    ] == [1, 2]
    await complete(client, declared)
    await check_served(client, resources, declared, body)


async def test_pages_of_the_same_origin_need_no_preflight(
    client: httpx.AsyncClient, behind: Behind
) -> None:
    """Check that the API and the store have one origin.

    Browsers then send no preflight request. The store would not answer one.
    """
    declared = await declare(client, BODY)
    assert httpx.URL(declared["upload"]["url"]).netloc == httpx.URL(behind.nginx.url).netloc
    answer = await put(declared, BODY, {"Origin": behind.nginx.url})
    assert answer.status == 200
    assert not any(name.lower().startswith("access-control-") for name in answer.headers)


# The doctor

LEFT_OPEN = {"embedded": {"URL: if-none-match"}}
"""The conditions that nginx cannot enforce.

nginx forwards If-None-Match, and the embedded store ignores it.
"""
STOPPED: dict[str, set[str]] = {"minio": {"URL: readable"}, "embedded": set()}
"""The conditions that nginx enforces and the store alone does not."""


async def test_the_doctor_reports_conditions_that_nginx_enforces_as_enforced(
    resources: Resources, behind: Behind
) -> None:
    server = name_server(behind.api.store)
    found = {finding.name: finding async for finding in examine(resources)}
    assert failures(found) == set()
    assert {
        name for name, finding in found.items() if finding.status == "warning"
    } == LEFT_OPEN.get(server, set())
    assert found["public endpoint"].what == f"{behind.nginx.url} accepts an upload"
    assert (
        found[f"CORS: {behind.nginx.url}"].what
        == "the store has the origin of the page, so browsers do not ask"
    )
    before_store = {name for name, finding in found.items() if BEFORE_STORE in finding.what}
    if server in STOPPED:
        assert before_store == STOPPED[server]


# TLS


@pytest.fixture
def over_tls(behind: Behind, folder: Path, tmp_path: Path) -> Iterator[tuple[Nginx, Path]]:
    """Run nginx with TLS, as documented. Yield it and its certificate."""
    certificate = make_certificate(tmp_path)
    with beside(behind, folder, certificate=certificate) as nginx:
        yield nginx, certificate.chain


async def test_requests_over_tls_work_as_documented(
    resources: Resources, over_tls: tuple[Nginx, Path], tmp_path: Path
) -> None:
    nginx, trusted = over_tls
    assert (await curl(*STATUS, "--cacert", trusted, f"{nginx.url}/health/live")).split() == [
        "200",
        "1.1",
    ]
    (large := tmp_path / "large").write_bytes(body := os.urandom(20 * MIB))
    signer = make_signer(
        msgspec.structs.replace(resources.settings, s3_public_endpoint=Url(nginx.url))
    )
    key = os.urandom(16).hex()
    signed = sign(
        signer, resources.incoming, key, size=len(body), digest_of=body, if_none_match=True
    )
    headers = [
        part for name, value in signed.headers.items() for part in ("-H", f"{name}: {value}")
    ]
    said = await curl(*STATUS, "--cacert", trusted, "-T", large, *headers, signed.url)
    assert said.split() == ["200", "1.1"]
    assert content(resources.incoming, key) == body
    await resources.incoming.delete(key)
    assert nginx.buffered() == []


async def test_curl_follows_its_redirect_over_tls(
    client: httpx.AsyncClient, over_tls: tuple[Nginx, Path], owner: Owner, tmp_path: Path
) -> None:
    """Check that the response arrives although curl still sends the body. (It does not arrive over
    HTTP/2.)
    """
    nginx, trusted = over_tls
    photo = tmp_path / "photo.jpg"
    photo.write_bytes(body := os.urandom(20 * MIB))
    said = await curl(
        *STATUS[:-1],
        "%{http_code} %{num_redirects}",
        "--cacert",
        trusted,
        "-LT",
        photo,
        "-H",
        f"Authorization: Bearer {owner.key}",
        f"{nginx.url}/upload/",
    )
    assert said == "200 1"
    (newest, *_) = (await client.get("/files", params={"limit": 1})).json()["files"]
    metadata = await read_metadata(client, {"file": newest}, wait=20)
    assert (metadata["state"], metadata["hash"]) == ("ready", digest(body))


async def test_a_body_of_unknown_length_over_http_2_is_refused(
    resources: Resources, behind: Behind, folder: Path, tmp_path: Path
) -> None:
    """Check the file as an administrator may change it.

    HTTP/2 has no chunked coding, which would announce that the length is unknown.
    """
    certificate = make_certificate(tmp_path)
    with beside(behind, folder, certificate=certificate, http2=True) as nginx:
        signer = make_signer(
            msgspec.structs.replace(resources.settings, s3_public_endpoint=Url(nginx.url))
        )
        signed = sign(signer, resources.incoming, os.urandom(16).hex(), size=17)
        headers = [
            part for name, value in signed.headers.items() for part in ("-H", f"{name}: {value}")
        ]
        said = await curl(
            *STATUS,
            "--cacert",
            certificate.chain,
            "-T",
            "-",
            *headers,
            signed.url,
            piped="of unknown length",
        )
        assert said.split() == ["411", "2"]
        assert nginx.buffered() == []


async def test_plain_http_is_redirected_to_https(over_tls: tuple[Nginx, Path]) -> None:
    nginx, _ = over_tls
    said = await curl(
        *STATUS,
        "--unix-socket",
        nginx.folder / "redirect.sock",
        "http://files.example.com/files?limit=1",
    )
    assert said.split() == ["308", "1.1", "https://files.example.com/files?limit=1"]


# The logs of nginx


async def test_the_logs_contain_no_link_and_no_signature(
    client: httpx.AsyncClient, resources: Resources, behind: Behind, folder: Path
) -> None:
    declared = await upload(client, BODY)
    await complete(client, declared)
    link = (
        await client.post(f"/files/{declared['file']['id']}/links", json={"expires_in": 60})
    ).json()["url"]
    with beside(behind, folder, store=f"127.0.0.1:{free_port()}") as nginx:
        assert (await client.get(link.replace(behind.nginx.url, nginx.url))).content == BODY
        away = {
            "upload": declared["upload"]
            | {"url": declared["upload"]["url"].replace(behind.nginx.url, nginx.url)}
        }
        refused = await client.put(away["upload"]["url"], content=BODY, headers={"Referer": link})
        assert refused.status_code == 502

        async def is_logged() -> bool:  # nginx logs a request after it has sent the response
            return f" PUT /{resources.incoming.name}/... 502 " in nginx.read_logs()

        await until(is_logged)
        logged = nginx.read_logs()
    assert " GET /l/... 200 " in logged
    check_log(logged)
    token, key = (
        keep_link_secret(link),
        httpx.URL(declared["upload"]["url"]).path.rpartition("/")[2],
    )
    assert token not in logged
    assert key not in logged
    await check_all(resources)
