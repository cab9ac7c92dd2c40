"""`assay info`: shows all fields of files."""

from uuid import UUID

from service.cli.client.accounts import HERE, Server, open_client
from service.cli.client.ids import for_each, format_object
from service.cli.client.listings import as_object, describe_fields


def info(ids: list[str], /, *, json: bool = False, server: Server = HERE) -> None:
    """Show all fields of files.

    Parameters
    ----------
    ids
        The files' ids.
    json
        Print one JSON object per line.
    """
    first = True
    with open_client(server) as client:

        def tell(file_id: UUID) -> None:
            nonlocal first
            file = client.info(file_id)
            if json:
                print(format_object(as_object(file)), flush=True)
            else:
                print(*([] if first else [""]), *describe_fields(file), sep="\n", flush=True)
            first = False

        for_each(ids, tell, json=json)
