"""`assay import` as a command, and downloads of what it has imported."""

import asyncio
import hashlib
import io
import secrets
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from service.settings import Deployment, Settings
from tests.e2e.commands import run
from tests.e2e.conftest import api_apart
from tests.support.environments import make_environment
from tests.support.stores import root_sdk

pytestmark = pytest.mark.anyio

OBJECTS = {"2026/a.txt": b"first", "2026/folder/b": b"second" * 300_000, "other": b"third"}


@pytest.fixture
def bucket(deployment: Deployment) -> Iterator[str]:
    """Yield the name of a bucket with objects, which only root may read."""
    sdk, name = root_sdk(deployment), f"source-{secrets.token_hex(4)}"
    sdk.make_bucket(name)
    for key, body in OBJECTS.items():
        sdk.put_object(name, key, io.BytesIO(body), len(body), content_type="text/plain")
    yield name
    for key in OBJECTS:
        sdk.remove_object(name, key)
    sdk.remove_bucket(name)


async def call(
    settings: Settings, *arguments: str, deployment: Deployment | None = None
) -> subprocess.CompletedProcess[str]:
    """Run the command, as the store's root if a deployment is given."""
    environ = make_environment(settings)
    if deployment is not None:
        environ["ASSAY_S3_IMPORT_ACCESS_KEY"] = deployment.s3_root_access_key
        environ["ASSAY_S3_IMPORT_SECRET_KEY"] = deployment.s3_root_secret_key
    return await asyncio.to_thread(run, ["import", *arguments], environ=environ)


async def test_imported_files_are_downloaded(
    settings: Settings, deployment: Deployment, bucket: str, logs: object
) -> None:
    arguments = f"s3://{bucket}/2026/", "--owner", "apart"
    done = await call(settings, *arguments, deployment=deployment)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == (
        "2 files imported (1800005 bytes), 0 existed already, 0 could not be imported\n"
    )
    async with api_apart(settings, with_worker=False) as client:
        files = {file["filename"]: file for file in (await client.get("/files")).json()["files"]}
        assert files.keys() == {"a.txt", "b"}
        for key, name in (("2026/a.txt", "a.txt"), ("2026/folder/b", "b")):
            answer = await client.get(f"/files/{files[name]['id']}")
            assert answer.content == OBJECTS[key]
            assert files[name]["hash"] == hashlib.sha256(OBJECTS[key]).hexdigest()
    again = await call(settings, *arguments, deployment=deployment)
    assert again.stdout.startswith("0 files imported (0 bytes), 2 existed already")


async def test_what_cannot_be_imported_is_listed(
    settings: Settings, deployment: Deployment, bucket: str, tmp_path: Path
) -> None:
    table = tmp_path / "files.csv"
    table.write_text(
        "id,filename,size,content_type,hash,upload_date,minio_object_name\n"
        f"{'0' * 32},a,5,,,2020-01-01,a.txt\n{'1' * 32},b,5,,,2020-01-01,missing\n"
    )
    done = await call(
        settings,
        f"s3://{bucket}/2026/",
        "--owner",
        "apart",
        "--table",
        str(table),
        deployment=deployment,
    )
    assert done.returncode == 1
    assert done.stdout.startswith("1 files imported (5 bytes)")
    assert done.stderr == "2026/missing: the object is missing\n"


@pytest.mark.one_store
@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["photos", "--owner", "ann"], "not a source such as s3://bucket/prefix"),
        (["s3://A/", "--owner", "ann"], "not a source such as s3://bucket/prefix"),
        (["s3://photos/", "--owner", " "], "--owner must be a name"),
        (["s3://photos/"], "--owner"),
        (["s3://{vault}/", "--owner", "ann"], "a bucket of Assay itself"),
        (["s3://{incoming}/x", "--owner", "ann"], "a bucket of Assay itself"),
        (["s3://not-there-1/", "--owner", "ann"], "the source cannot be listed"),
        (["s3://photos/", "--owner", "ann", "--table", "/missing.csv"], "No such file"),
    ],
)
async def test_a_wrong_argument_is_explained(
    settings: Settings, arguments: list[str], said: str
) -> None:
    names = {"vault": settings.vault_bucket, "incoming": settings.incoming_bucket}
    done = await call(settings, *(argument.format(**names) for argument in arguments))
    assert done.returncode in (1, 2)
    assert said in done.stderr
    assert "Traceback" not in done.stderr
