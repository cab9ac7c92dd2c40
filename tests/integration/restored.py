"""Steps of tests in which the database is restored to an earlier state."""

from collections.abc import AsyncIterator
from uuid import UUID

from service.model import File, ProvedFile
from service.operations.reconciling import Adoption, Found, Options, reconcile
from service.resources import Resources
from service.uploads.buffers import UploadBuffers
from service.uploads.mending import send_again
from service.uploads.streamed import UploadHeaders, upload_stream
from tests.integration.steps import BODY
from tests.support.backups import back_up, restore

AS_RECORDED = Options(adoption=Adoption(wanted=True))


async def reconcile_all(resources: Resources, options: Options = AS_RECORDED) -> list[Found]:
    return [found async for found in reconcile(resources, options)]


async def back_up_now(resources: Resources) -> None:
    """Back up the database, and raise the marker, so that a restore is found."""
    resources.guard.due_at = 0.0
    await resources.guard.check()
    await back_up(resources.pool)
    await resources.pool.execute("UPDATE vault_marker SET raised_at = now() - interval '1 hour'")
    resources.guard.due_at = 0.0
    assert (await resources.guard.check()).stopped is None


async def restore_backup(resources: Resources) -> None:
    await restore(resources.pool)
    resources.guard.due_at = 0.0
    assert (await resources.guard.check()).stopped is not None


def key_of_object(file: File) -> UUID:
    assert file.minio_object_name is not None
    return file.minio_object_name


async def stream(resources: Resources, body: bytes = BODY) -> File:
    async def pieces() -> AsyncIterator[bytes]:
        yield body

    headers = UploadHeaders(
        owner="ann", filename="ü.txt", content_type="text/plain", most_bytes=len(body)
    )
    return await upload_stream(resources, UploadBuffers().open_loan("ann"), headers, pieces())


async def resend(resources: Resources, file: ProvedFile) -> File:
    async def pieces() -> AsyncIterator[bytes]:
        yield BODY

    buffers = UploadBuffers()
    try:
        loan = buffers.open_loan(file.owner)
        return await send_again(resources, loan, file, length=None, digests=(), body=pieces())
    finally:
        buffers.close()
