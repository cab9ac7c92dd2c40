"""`assay info`: shows all fields of files."""

from uuid import UUID

from service.cli.client.accounts import HERE, Server, open_client
from service.cli.client.ids import for_each, print_object
from service.cli.client.listings import as_object, describe_fields


def info(ids: list[UUID], /, *, json: bool = False, server: Server = HERE) -> None:
    """Show all fields of files.

    Parameters
    ----------
    ids
        The files' ids.
    json
        Print one JSON object per line.
    """
    with open_client(server) as client:

        def tell(file_id: UUID) -> None:
            file = client.info(file_id)
            if json:
                print_object(as_object(file))
            else:
                print(
                    "\n".join(
                        ["", *describe_fields(file)] if file_id != ids[0] else describe_fields(file)
                    ),
                    flush=True,
                )

        for_each(ids, tell, json=json)
