"""`assay login`: a server's address and a key, kept for the other commands."""

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
    """Ask for a key, or read it from standard input, try it, and keep it in a file that nobody else can read.

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
    """Raises WrongUse, NotAllowed, Failed."""
    if given := find_given_url(url):
        return check_url(given)
    kept = read_login()
    if kept is None:
        raise WrongUse("which server? Give its address: assay login https://files.example.com")
    return kept.url


def read_key(address: str) -> str:
    """Without an echo from a terminal, else the first line of standard input. Raises WrongUse."""
    if not sys.stdin.isatty():
        return check_key(sys.stdin.readline(8192).strip(), "standard input")
    if (
        address.startswith("http://")
        and address.removeprefix("http://").partition("/")[0].rpartition(":")[0] not in LOOPBACK
    ):
        print(
            f"{show(address)} is not encrypted: whoever is on the way can read the key",
            file=sys.stderr,
        )
    return check_key(getpass.getpass(f"Key for {show(address)}: ").strip(), "what you typed")


def try_account(account: Account) -> None:
    """Raises NotAllowed when the server refuses the key, Away."""
    from assay import Client
    from assay.errors import Forbidden

    with Client(account.url, account.key, retry_seconds=WAIT_SECONDS) as client, explained():
        try:
            next(client.list(page=1), None)
        except Forbidden:
            return  # a key that may only write is a key
