"""`assay login`: stores a server's address and a key for the other commands."""

import getpass
import sys

from service.cli.client.accounts import (
    Account,
    check_key,
    check_url,
    find_given_url,
    read_login,
    write_login,
)
from service.cli.client.display import show
from service.cli.client.exit_codes import WrongUse, explained

WAIT_SECONDS = 5.0
LOOPBACK = ("localhost", "127.0.0.1", "[::1]")


def login(url: str | None = None, /) -> None:
    """Read a key from the terminal or from standard input, test it, and store it in a file that no
    other user can read.

    Parameters
    ----------
    url
        The server's address. Default: ASSAY_URL, or the one you are signed in at.
    """
    address = choose_address(url)
    account = Account(address, read_key(address))
    try_account(account)
    path = write_login(account)
    print(f"signed in at {show(address)}; the key is in {show(str(path))}", file=sys.stderr)


def choose_address(url: str | None) -> str:
    if given := find_given_url(url):
        return check_url(given)
    kept = read_login()
    if kept is None:
        raise WrongUse(
            "no server was specified; give its address: assay login https://files.example.com"
        )
    return kept.url


def read_key(address: str) -> str:
    """Read a key without echo from a terminal, or from the first line of standard input.

    Raises WrongUse.
    """
    if not sys.stdin.isatty():
        return check_key(read_line(), "standard input")
    if (
        address.startswith("http://")
        and address.removeprefix("http://").partition("/")[0].rpartition(":")[0] not in LOOPBACK
    ):
        print(
            f"{show(address)} is not encrypted; others on the network can read the key",
            file=sys.stderr,
        )
    try:
        return check_key(getpass.getpass(f"Key for {show(address)}: ").strip(), "your input")
    except EOFError:
        return check_key("", "your input")


def read_line() -> str:
    """Return the first line of standard input. A key has only ASCII characters."""
    return sys.stdin.buffer.readline(8192).decode("ascii", "replace").strip()


def try_account(account: Account) -> None:
    """Send a request with the key. Raises NotAllowed if the server refuses it, or Away."""
    from assay import Client
    from assay.errors import Forbidden

    with Client(account.url, account.key, retry_seconds=WAIT_SECONDS) as client, explained():
        try:
            next(client.list(page=1), None)
        except Forbidden:
            return  # the key is valid, but has only the scope `write`
