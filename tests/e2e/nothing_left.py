"""The check that a refused streamed upload has left nothing."""

from service.object_store import UploadMissing
from service.resources import Resources
from tests.e2e.conftest import Owner
from tests.e2e.jobs import until_it_holds
from tests.support.invariants import list_bucket


async def check_nothing_left(resources: Resources, owner: Owner) -> None:
    """Check that the owner has no file, live reservation, object or multipart upload.

    The keys of objects and uploads are those of the owner's reservations.
    """
    assert await resources.pool.fetch("SELECT id FROM files WHERE owner = $1", owner.name) == []
    await until_it_holds(lambda: check_reservations_are_gone(resources, owner))


async def check_reservations_are_gone(resources: Resources, owner: Owner) -> None:
    assert (
        await resources.pool.fetch(
            "SELECT 1 FROM reservations WHERE owner = $1 AND doomed_at IS NULL", owner.name
        )
        == []
    )
    # Reservations that were made in advance name no owner.
    rows = await resources.pool.fetch(
        "SELECT vault_key, upload_id FROM reservations"
        " WHERE owner = $1 OR file_id IS NULL AND doomed_at IS NOT NULL",
        owner.name,
    )
    assert not {str(row["vault_key"]) for row in rows} & await list_bucket(resources.vault)
    for row in rows:
        assert not row["upload_id"] or await has_ended(
            resources, str(row["vault_key"]), row["upload_id"]
        )


async def has_ended(resources: Resources, key: str, upload_id: str) -> bool:
    try:
        await resources.vault.list_parts(key, upload_id)
    except UploadMissing:
        return True
    return False
