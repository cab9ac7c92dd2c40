"""`assay share`: creates a link that works without a key."""

import sys
from datetime import timedelta
from typing import Final

from service.cli.client.accounts import HERE, Server, open_client
from service.cli.client.arguments import read_id
from service.cli.client.display import show, show_time
from service.cli.client.exit_codes import WrongUse, explained
from service.cli.client.ids import format_object
from service.cli.client.times import parse_span

LONGEST: Final = timedelta(days=7)


def share(
    id: str,
    /,
    *,
    expires: str = "1h",
    inline: bool = False,
    embed: bool = False,
    json: bool = False,
    server: Server = HERE,
) -> None:
    """Create a link with which others can fetch the file until the link expires.

    The link also becomes invalid when the file is deleted, or when your key expires or is revoked.
    The key needs the scope `read`.

    Parameters
    ----------
    id
        The file's id.
    expires
        The link's lifetime, such as 15m, 1h or 7d. At most 7 days.
    inline
        Let a browser show the file, if its type is harmless.
    embed
        Let pages of other origins show the file, for example in <img>.
    json
        Print a JSON object.
    """
    lifetime, file_id = parse_lifetime(expires), read_id(id)
    with open_client(server) as client, explained():
        link = client.share(
            file_id, expires_in=int(lifetime.total_seconds()), inline=inline, embed=embed
        )
    if json:
        about = {"id": str(file_id), "url": link.url, "expires_at": link.expires_at.isoformat()}
        print(format_object(about))
        return
    print(show(link.url))
    print(f"works until {show_time(link.expires_at)} UTC", file=sys.stderr)


def parse_lifetime(text: str) -> timedelta:
    try:
        lifetime = parse_span(text)
    except ValueError as error:
        raise WrongUse(f"--expires: {error}") from error
    if lifetime > LONGEST:
        raise WrongUse(f"--expires {text}: the lifetime of a link must not exceed 7 days")
    return lifetime
