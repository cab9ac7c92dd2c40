"""The check of ready files reads no object twice, and still finds what has changed."""

import pytest

from service.model import File
from service.object_store import ObjectChanged, ObjectMissing
from service.resources import Resources
from tests.integration.steps import BODY, prove, send
from tests.support import invariants
from tests.support.invariants import check_files_are_proved
from tests.support.objects import put_object

pytestmark = pytest.mark.anyio


@pytest.fixture
async def file(resources: Resources) -> File:
    return await prove(resources, (await send(resources)).file)


async def test_an_object_that_was_read_is_not_read_again(
    resources: Resources, file: File, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: set[tuple[object, ...]] = set()
    await check_files_are_proved(resources, read)
    monkeypatch.setattr(invariants, "check_ready", None)  # a call would raise TypeError
    await check_files_are_proved(resources, read)
    assert len(read) == 1


@pytest.mark.parametrize("change", ["size = size + 1", r"hash = '\x00'::bytea || substr(hash, 2)"])
async def test_a_row_that_changed_is_found(resources: Resources, file: File, change: str) -> None:
    read: set[tuple[object, ...]] = set()
    await check_files_are_proved(resources, read)
    await resources.pool.execute(
        f"UPDATE files SET {change} WHERE id = $1",  # noqa: S608  # one of the above
        file.id,
    )
    with pytest.raises(AssertionError):
        await check_files_are_proved(resources, read)


async def test_an_object_that_is_gone_or_was_replaced_is_found(
    resources: Resources, file: File
) -> None:
    read: set[tuple[object, ...]] = set()
    await check_files_are_proved(resources, read)
    key = str(file.minio_object_name)
    await resources.vault.delete(key)
    with pytest.raises(ObjectMissing):
        await check_files_are_proved(resources, read)
    put_object(resources.vault, key, BODY + b"more")
    with pytest.raises(ObjectChanged):
        await check_files_are_proved(resources, read)
