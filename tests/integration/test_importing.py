"""The import of objects that lie in another bucket of the same store.

The tests check the database, both buckets, and that the source is unchanged.
"""

import csv
import hashlib
import io
import secrets
from collections.abc import AsyncIterator, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import msgspec
import pytest

from service.files.lookup import delete_file
from service.model import State
from service.object_store import ObjectStore
from service.operations.importing import BATCH, Importer, Outcome, import_all
from service.operations.importing.objects import list_candidates
from service.operations.importing.table import COLUMNS, TableError, read_candidates
from service.queries import importing as queries
from service.queries.files import find_file
from service.queries.history import list_history
from service.resources import Resources
from service.settings import Deployment
from tests.integration.steps import let_settle
from tests.support.faults import FaultyBucket, FaultyPool, lose_answer, lose_connection
from tests.support.invariants import check_invariants, check_nothing_left, list_bucket
from tests.support.objects import read_all
from tests.support.stores import open_root_store, root_sdk

pytestmark = [pytest.mark.anyio, pytest.mark.one_store]

MIB = 1024**2
SMALL, LARGE = b"a small object", secrets.token_bytes(MIB + 1)
OBJECTS = {
    "2026/a.txt": SMALL,
    "2026/deep/b ü.bin": LARGE,
    "2026/empty": b"",
    "other/c.txt": b"not below the prefix",
}
DOOMED = "SELECT count(*) FROM reservations WHERE doomed_at IS NOT NULL"


@pytest.fixture
def root(deployment: Deployment) -> Iterator[ObjectStore]:
    with open_root_store(deployment) as opened:
        yield opened


@pytest.fixture
def bucket(deployment: Deployment) -> Iterator[str]:
    """Yield the name of a bucket that Assay's identities have no right to."""
    sdk, name = root_sdk(deployment), f"source-{secrets.token_hex(4)}"
    sdk.make_bucket(name)
    yield name
    for found in sdk.list_objects(name, recursive=True):
        sdk.remove_object(name, found.object_name or "")
    sdk.remove_bucket(name)


@pytest.fixture
async def importer(
    resources: Resources, root: ObjectStore, bucket: str, deployment: Deployment
) -> AsyncIterator[Importer]:
    with ThreadPoolExecutor(2) as hashing:
        yield Importer(
            resources=msgspec.structs.replace(
                resources,
                incoming=root.bucket(bucket),
                vault=root.bucket(deployment.vault_bucket),
            ),
            reserved_keys=resources.reserved_keys,
            hashing=hashing,
        )


def fill(deployment: Deployment, bucket: str, objects: Mapping[str, bytes] = OBJECTS) -> None:
    sdk = root_sdk(deployment)
    for key, body in objects.items():
        sdk.put_object(bucket, key, io.BytesIO(body), len(body), content_type="text/plain")


async def run(importer: Importer, prefix: str = "2026/", *, owner: str = "ann") -> list[Outcome]:
    candidates = list_candidates(importer.source, prefix, owner=owner)
    return [outcome async for outcome in import_all(importer, candidates)]


def disturb(
    importer: Importer,
    *,
    source: FaultyBucket | None = None,
    vault: FaultyBucket | None = None,
    pool: Any = None,
) -> Importer:
    changes = {
        name: value
        for name, value in (("incoming", source), ("vault", vault), ("pool", pool))
        if value is not None
    }
    return msgspec.structs.replace(
        importer, resources=msgspec.structs.replace(importer.resources, **changes)
    )


async def list_files(resources: Resources) -> dict[str, Any]:
    rows = await resources.pool.fetch("SELECT * FROM files ORDER BY filename")
    return {row["filename"]: row for row in rows}


async def describe_source(importer: Importer) -> list[Any]:
    return [listed async for listed in importer.source.list_keys()]


async def check_imported(resources: Resources, expected: Mapping[str, bytes]) -> None:
    """Check that exactly these files exist, by name, and are proved."""
    found = await list_files(resources)
    assert found.keys() == expected.keys()
    for name, body in expected.items():
        row = found[name]
        assert (row["state"], row["size"]) == ("ready", len(body))
        assert row["hash"] == hashlib.sha256(body).digest()
        stored = read_all(resources.vault, str(row["minio_object_name"]), etag=row["vault_etag"])
        assert stored == body
    await check_invariants(resources)
    assert await resources.pool.fetchval("SELECT count(*) FROM reservations WHERE owner <> ''") == 0


WHOLE = {"a.txt": SMALL, "b ü.bin": LARGE, "empty": b""}


async def test_the_objects_of_a_prefix_become_proved_files(
    resources: Resources, importer: Importer, deployment: Deployment, bucket: str
) -> None:
    fill(deployment, bucket)
    before = await describe_source(importer)
    outcomes = await run(importer)
    assert [outcome.key for outcome in outcomes] == sorted(OBJECTS)[:3]
    assert all(outcome.is_new and outcome.failure is None for outcome in outcomes)
    await check_imported(resources, WHOLE)
    assert await describe_source(importer) == before
    row = (await list_files(resources))["b ü.bin"]
    assert (row["owner"], row["content_type"]) == ("ann", "text/plain")
    modified = next(one.last_modified for one in before if one.key == "2026/deep/b ü.bin")
    assert row["metadata"] == {
        "path": "deep/b ü.bin",
        "mtime": f"{modified.timestamp():.9f}",
    }
    [entry] = await list_history(resources.pool, row["id"])
    assert (entry.state, entry.why) == (
        State.READY,
        f"imported from s3://{bucket}/2026/deep/b ü.bin",
    )


async def test_a_second_run_imports_only_what_is_new(
    resources: Resources, importer: Importer, deployment: Deployment, bucket: str
) -> None:
    fill(deployment, bucket)
    await run(importer)
    fill(deployment, bucket, {"2026/a.txt": b"replaced", "2026/d": b"added"})
    outcomes = {outcome.key: outcome.is_new for outcome in await run(importer)}
    assert outcomes == {
        "2026/a.txt": True,
        "2026/d": True,
        "2026/deep/b ü.bin": False,
        "2026/empty": False,
    }
    assert await resources.pool.fetchval("SELECT count(*) FROM files") == 5
    again = await run(importer, owner="bob")
    assert all(outcome.is_new for outcome in again), "another owner gets files of its own"
    await check_invariants(resources)


async def test_names_that_no_file_can_have_are_reported(
    resources: Resources, importer: Importer, deployment: Deployment, bucket: str
) -> None:
    fill(deployment, bucket, {"2026/a\u2028b": b"1", "2026/good": b"2"})
    outcomes = await run(importer)
    assert [outcome.failure is None for outcome in outcomes] == [False, True]
    assert "control character" in str(outcomes[0].failure)
    await check_imported(resources, {"good": b"2"})


@pytest.mark.parametrize("body", [SMALL, LARGE], ids=["small", "large"])
async def test_an_object_that_is_replaced_meanwhile_is_not_imported(
    resources: Resources, importer: Importer, deployment: Deployment, bucket: str, body: bytes
) -> None:
    fill(deployment, bucket, {"2026/a": body})
    source = FaultyBucket(importer.source)
    changed = bytes([body[0] ^ 1]) + body[1:]
    source.before["get" if body is SMALL else "head"] = lambda: fill(
        deployment, bucket, {"2026/a": changed}
    )
    [outcome] = await run(disturb(importer, source=source))
    assert "replaced" in str(outcome.failure)
    await check_imported(resources, {})
    await run(importer)
    await check_imported(resources, {"a": changed})


async def test_an_object_that_is_replaced_before_its_copy_is_not_imported(
    resources: Resources, importer: Importer, deployment: Deployment, bucket: str
) -> None:
    fill(deployment, bucket, {"2026/a": LARGE})
    vault = FaultyBucket(importer.vault)
    vault.before["copy_from"] = lambda: fill(deployment, bucket, {"2026/a": b"another"})
    [outcome] = await run(disturb(importer, vault=vault))
    assert outcome.failure is not None
    await check_imported(resources, {})
    await check_nothing_left(resources)


@pytest.mark.parametrize(
    ("call", "body"), [("put", SMALL), ("copy_from", LARGE)], ids=["small", "large"]
)
@pytest.mark.parametrize("when", ["before", "after"])
async def test_a_write_without_an_answer_leaves_nothing(
    resources: Resources,
    importer: Importer,
    deployment: Deployment,
    bucket: str,
    call: str,
    body: bytes,
    when: str,
) -> None:
    fill(deployment, bucket, {"2026/a": body})
    vault = FaultyBucket(importer.vault)
    getattr(vault, when)[call] = lose_answer
    [outcome] = await run(disturb(importer, vault=vault))
    assert "unavailable" in str(outcome.failure)
    assert await resources.pool.fetchval(DOOMED) == 1
    assert await list_bucket(resources.vault) == set()
    [outcome] = await run(importer)
    assert outcome.is_new
    await check_invariants(resources)
    await let_settle(resources)
    assert len(await list_bucket(resources.vault)) == 1


@pytest.mark.parametrize("body", [SMALL, LARGE], ids=["small", "large"])
async def test_a_commit_without_an_answer_is_looked_up(
    resources: Resources, importer: Importer, deployment: Deployment, bucket: str, body: bytes
) -> None:
    fill(deployment, bucket, {"2026/a": body})
    pool = FaultyPool(resources.pool, queries.COMMIT, after=lose_connection)
    [outcome] = await run(disturb(importer, pool=pool))
    assert outcome.is_new
    await check_imported(resources, {"a": body})


async def test_a_commit_that_did_not_happen_leaves_nothing(
    resources: Resources, importer: Importer, deployment: Deployment, bucket: str
) -> None:
    fill(deployment, bucket, {"2026/a": LARGE})
    pool = FaultyPool(resources.pool, queries.COMMIT, before=lose_connection)
    [outcome] = await run(disturb(importer, pool=pool))
    assert "not committed" in str(outcome.failure)
    assert await list_bucket(resources.vault) == set()
    assert await resources.pool.fetchval(DOOMED) == 1


async def test_two_imports_at_once_make_one_file(
    resources: Resources, importer: Importer, deployment: Deployment, bucket: str
) -> None:
    fill(deployment, bucket, {"2026/a": SMALL})

    async def import_first() -> None:
        await run(importer)

    pool = FaultyPool(resources.pool, queries.COMMIT, before=import_first)
    [outcome] = await run(disturb(importer, pool=pool))
    assert "not committed" in str(outcome.failure)
    assert await resources.pool.fetchval("SELECT count(*) FROM files") == 1
    await check_invariants(resources)
    await let_settle(resources)
    assert len(await list_bucket(resources.vault)) == 1


# Tables


def write_table(path: Path, *rows: Mapping[str, Any]) -> Path:
    with path.open("w", newline="", encoding="utf-8") as opened:
        writer = csv.DictWriter(opened, COLUMNS)
        writer.writeheader()
        writer.writerows(rows)
    return path


def make_row(body: bytes = SMALL, **changes: Any) -> dict[str, Any]:
    return {
        "id": uuid4(),
        "filename": "from the table.txt",
        "size": len(body),
        "content_type": "text/csv",
        "hash": hashlib.sha256(body).hexdigest(),
        "upload_date": "2024-05-06T07:08:09+02:00",
        "minio_object_name": "a.txt",
    } | changes


async def run_table(importer: Importer, path: Path, *, owner: str = "ann") -> list[Outcome]:
    candidates = read_candidates(path, importer.source.name, "2026/", owner=owner)
    return [outcome async for outcome in import_all(importer, candidates)]


async def test_the_files_of_a_table_keep_their_ids_and_dates(
    resources: Resources, importer: Importer, deployment: Deployment, bucket: str, tmp_path: Path
) -> None:
    fill(deployment, bucket)
    large = make_row(LARGE, minio_object_name="deep/b ü.bin", filename="l", hash="")
    rows = [make_row(), large]
    table = write_table(tmp_path / "files.csv", *rows)
    assert [outcome.is_new for outcome in await run_table(importer, table)] == [True, True]
    file = await find_file(resources.pool, rows[0]["id"], owner="ann")
    assert file is not None
    date = datetime(2024, 5, 6, 5, 8, 9, tzinfo=UTC)
    assert (file.created_at, file.upload_date, file.content_type) == (date, date, "text/csv")
    await check_imported(resources, {"from the table.txt": SMALL, "l": LARGE})
    assert [outcome.is_new for outcome in await run_table(importer, table)] == [False, False]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"hash": "0" * 64}, "the table says 0000"),
        ({"size": 13}, "has 14 bytes"),
        ({"minio_object_name": "missing"}, "the object is missing"),
        ({"minio_object_name": ""}, "minio_object_name"),
        ({"id": "1234"}, "id: "),
        ({"filename": "a/b"}, "filename"),
        ({"size": "-1"}, "size: "),
        ({"size": "14.0"}, "size: "),
        ({"hash": "abc"}, "hash"),
        ({"upload_date": "yesterday"}, "upload_date: "),
        ({"content_type": "text"}, "content_type"),
    ],
    ids=str,
)
async def test_a_row_that_differs_from_its_object_is_reported(
    resources: Resources,
    importer: Importer,
    deployment: Deployment,
    bucket: str,
    tmp_path: Path,
    changes: dict[str, Any],
    said: str,
) -> None:
    fill(deployment, bucket)
    table = write_table(tmp_path / "files.csv", make_row(**changes), make_row(filename="good"))
    wrong, right = await run_table(importer, table)
    assert said in str(wrong.failure)
    assert right.is_new
    await check_imported(resources, {"good": SMALL})
    await let_settle(resources)
    assert len(await list_bucket(resources.vault)) == 1


async def test_an_id_that_exists_already_is_compared(
    resources: Resources, importer: Importer, deployment: Deployment, bucket: str, tmp_path: Path
) -> None:
    fill(deployment, bucket)
    row = make_row()
    await run_table(importer, write_table(tmp_path / "1.csv", row))
    [other] = await run_table(importer, tmp_path / "1.csv", owner="bob")
    assert "another owner" in str(other.failure)
    [other] = await run_table(importer, write_table(tmp_path / "2.csv", row | {"hash": "0" * 64}))
    assert "another digest" in str(other.failure)
    await delete_file(resources, UUID(str(row["id"])), owner="ann")
    [gone] = await run_table(importer, tmp_path / "1.csv")
    assert (gone.is_new, gone.failure) == (False, None), "a deleted file is not imported again"


@pytest.mark.parametrize("apart", [0, BATCH])
async def test_two_rows_with_one_id_are_reported(
    resources: Resources,
    importer: Importer,
    deployment: Deployment,
    bucket: str,
    tmp_path: Path,
    apart: int,
) -> None:
    """Import two objects under one id, in the same batch or in two, and run the import again."""
    fill(deployment, bucket, {"2026/a": SMALL, "2026/b": SMALL[::-1]})
    first = make_row(minio_object_name="a", hash="")
    between = [make_row(minio_object_name="missing") for _ in range(apart)]
    table = write_table(tmp_path / "f.csv", first, *between, first | {"minio_object_name": "b"})
    for _ in range(2):
        outcomes = [
            outcome.failure
            for outcome in await run_table(importer, table)
            if not outcome.key.endswith("missing")
        ]
        assert sum(failure is not None for failure in outcomes) == 1
    assert await resources.pool.fetchval("SELECT count(*) FROM files") == 1
    await check_invariants(resources)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("id,filename\n", "no column size"),
        ("", "no column id"),
        (",".join(COLUMNS) + '\n"unfinished', "line"),
    ],
)
async def test_a_file_that_is_no_table_is_refused(
    importer: Importer, tmp_path: Path, text: str, said: str
) -> None:
    path = tmp_path / "files.csv"
    path.write_text(text)
    with pytest.raises(TableError, match=said):
        await run_table(importer, path)
    with pytest.raises(TableError, match="No such file"):
        await run_table(importer, tmp_path / "missing.csv")
