"""`assay rm`: deletes files. Access ends at once, and the bytes are removed in the background."""

from uuid import UUID

from service.cli.client.accounts import HERE, Server, open_client
from service.cli.client.ids import for_each, print_object


def rm(
    ids: list[UUID], /, *, json: bool = False, quiet: bool = False, server: Server = HERE
) -> None:
    """Delete files, or cancel their uploads. A file that was already deleted is not an error.

    Parameters
    ----------
    ids
        The files' ids.
    json
        Print one JSON object per line.
    quiet
        Print only errors.
    """
    with open_client(server) as client:

        def delete(file_id: UUID) -> None:
            client.delete(file_id)
            if json:
                print_object({"id": str(file_id), "outcome": "deleted"})
            elif not quiet:
                print(f"{file_id} deleted", flush=True)

        for_each(ids, delete, json=json)
