"""`assay rm`: deletes files. Access ends at once, and the bytes are removed in the background."""

from uuid import UUID

from service.cli.client.accounts import HERE, Server, open_client
from service.cli.client.ids import for_each, format_object
from service.cli.standard_streams import print_result


def rm(
    ids: list[str], /, *, json: bool = False, quiet: bool = False, server: Server = HERE
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
                print_result(format_object({"id": str(file_id), "outcome": "deleted"}))
            elif not quiet:
                print_result(f"{file_id} deleted")

        for_each(ids, delete, json=json)
