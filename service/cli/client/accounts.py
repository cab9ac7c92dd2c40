"""The choice of a server and its key.

1. The address is that of `--url`, else of ASSAY_URL, else of `assay login`.
2. The key is that of `--key-file`, else of ASSAY_KEY, else of the file that ASSAY_KEY_FILE names,
   else of `assay login`. It never appears on a command line.
3. The key of `assay login` is sent only to the server for which it was given,
   even if `--url` names another.
4. A file with a key that other users can read is refused, because the key is no longer a secret. A
   file of another user, such as a mounted secret, is accepted, because its mode cannot be
   corrected.
5. A login is written to a new file of mode 0600, in a folder of mode 0700. The new file then
   replaces the old one.
"""

import contextlib
import json
import os
import re
import secrets
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final
from urllib.parse import urlsplit

from cyclopts import Group, Parameter

from service.cli.client.display import show
from service.cli.client.exit_codes import Failed, NotAllowed, WrongUse
from service.cli.client.times import parse_span

if TYPE_CHECKING:
    from assay import Client

LONGEST_KEY_FILE: Final = 64 * 1024
KEY: Final = re.compile(r"[\x21-\x7e]{1,4096}")
GROUP: Final = Group("Server", sort_key=1)


@dataclass(frozen=True)
class Account:
    """A server's address, without a slash at its end, and a key for it."""

    url: str
    key: str = field(repr=False)


@Parameter(name="*", group=GROUP)
@dataclass(frozen=True)
class Server:
    """The options of every command that sends requests to a server."""

    url: Annotated[
        str | None,
        Parameter(help="The server's address. Default: ASSAY_URL, or that of `assay login`."),
    ] = None
    key_file: Annotated[
        Path | None,
        Parameter(
            help="A file that contains the key. Default: ASSAY_KEY, or that of `assay login`."
        ),
    ] = None
    retry_for: Annotated[
        str, Parameter(help="How long to retry while the server is unavailable.")
    ] = "2m"


HERE: Final = Server()


def find_account(server: Server, environ: Mapping[str, str] = os.environ) -> Account:
    given = find_given_url(server.url, environ)
    login = None if given and has_key(server, environ) else read_login(environ)
    url = check_url(given) if given else login.url if login else None
    if url is None:
        raise WrongUse(
            "no server was specified: set ASSAY_URL, use --url, or sign in with `assay login URL`"
        )
    return Account(url, find_key(server, environ) or take_login(login, url))


def find_given_url(option: str | None, environ: Mapping[str, str] = os.environ) -> str | None:
    return option or environ.get("ASSAY_URL") or None


def open_client(server: Server, *, connections: int | None = None) -> "Client":
    retry_seconds = parse_retry_for(server.retry_for)
    account = find_account(server)
    from assay import Client  # imported here, because it takes 50 ms

    return Client(account.url, account.key, retry_seconds=retry_seconds, connections=connections)


def parse_retry_for(text: str) -> float:
    try:
        return parse_span(text).total_seconds()
    except ValueError as error:
        raise WrongUse(f"--retry-for: {error}") from error


def has_key(server: Server, environ: Mapping[str, str]) -> bool:
    return bool(server.key_file or environ.get("ASSAY_KEY") or environ.get("ASSAY_KEY_FILE"))


def find_key(server: Server, environ: Mapping[str, str]) -> str | None:
    if server.key_file:
        return read_key(server.key_file)
    if key := environ.get("ASSAY_KEY"):
        return check_key(key, "ASSAY_KEY")
    return read_key(Path(environ["ASSAY_KEY_FILE"])) if environ.get("ASSAY_KEY_FILE") else None


def take_login(login: Account | None, url: str) -> str:
    """Return the key of `assay login` if it is for this server. Raises NotAllowed otherwise."""
    if login is None:
        raise NotAllowed(
            "there is no key: sign in with `assay login`, set ASSAY_KEY, or use --key-file"
        )
    if login.url != url:
        raise NotAllowed(
            f"you are signed in at {show(login.url)}, and its key is not sent to {show(url)}:"
            " use --key-file, or sign in there"
        )
    return login.key


def check_url(text: str) -> str:
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError as error:
        raise WrongUse(f"{show(text)} is not an address: {error}") from error
    if (
        parts.scheme not in ("http", "https")
        or not parts.hostname
        or port == 0
        or parts.query
        or parts.fragment
    ):
        raise WrongUse(
            f"{show(text)} is not a server's address;"
            " it must have the form https://files.example.com"
        )
    if parts.username is not None or parts.password is not None:
        raise WrongUse("the address must not contain a user name or a password; use a key instead")
    if re.search(r"[\x00-\x20\x7f\ud800-\udfff]", text):
        raise WrongUse(f"{show(text)} contains a space, a control character, or no UTF-8")
    return parts.geturl().rstrip("/")


def check_key(text: str, where: str) -> str:
    """Return the key. Raises WrongUse, with a message that does not contain it."""
    if not KEY.fullmatch(text):
        raise WrongUse(f"{where} contains no key; a key is one line of visible ASCII characters")
    return text


def read_key(path: Path) -> str:
    return check_key(read_secret(path).decode("ascii", "replace").strip(), show(str(path)))


def read_secret(path: Path) -> bytes:
    """Return the content of a file that no other user can read. Raises Failed or NotAllowed."""
    try:
        with path.open("rb") as file:
            status = os.fstat(file.fileno())
            if is_open_to_others(status):
                raise NotAllowed(
                    f"{show(str(path))} can be read by other users, so its key may be known:"
                    " create a new key, or chmod 600 the file"
                )
            return file.read(LONGEST_KEY_FILE)
    except OSError as error:
        raise Failed(f"{show(str(path))}: {error.strerror}") from error


def is_open_to_others(status: os.stat_result) -> bool:
    """Return whether other users can read a file of this user.

    Only processes that were given a pipe can read it.
    """
    return (
        os.name == "posix"
        and stat.S_ISREG(status.st_mode)
        and status.st_uid == os.geteuid()
        and bool(status.st_mode & 0o077)
    )


# assay login


def find_folder(environ: Mapping[str, str], variable: str, default: str) -> Path | None:
    """Return the user's folder for one kind of files: that of the XDG variable, or the default in
    the home folder. Return None if the user has no home folder.
    """
    if given := environ.get(variable):
        return Path(given) / "assay"
    home = environ.get("HOME")
    if home is None and os.name == "posix":
        import pwd

        with contextlib.suppress(KeyError):
            home = pwd.getpwuid(os.getuid()).pw_dir
    elif os.name != "posix":
        home = os.path.expanduser("~")
    return Path(home) / default / "assay" if home and os.path.isabs(home) else None


def find_login_file(environ: Mapping[str, str] = os.environ) -> Path | None:
    """Return the path, or None if the user has no home folder."""
    folder = find_folder(environ, "XDG_CONFIG_HOME", ".config")
    return folder and folder / "login.json"


def read_login(environ: Mapping[str, str] = os.environ) -> Account | None:
    """Return the account of `assay login`, or None if there is none.

    Raises Failed or NotAllowed.
    """
    path = find_login_file(environ)
    if path is None or not os.path.exists(path):  # False for a folder that cannot be searched
        return None
    try:
        said = json.loads(read_secret(path))
        return Account(check_url(str(said["url"])), check_key(str(said["key"]), show(str(path))))
    except (ValueError, KeyError, TypeError, RecursionError, WrongUse) as error:
        raise Failed(
            f"{show(str(path))} was not written by `assay login`: sign in again"
        ) from error


def write_login(account: Account, environ: Mapping[str, str] = os.environ) -> Path:
    path = find_login_file(environ)
    if path is None:
        raise Failed("there is no home folder: set XDG_CONFIG_HOME to a folder for the key")
    fresh = path.with_name(f".login-{secrets.token_hex(8)}")
    try:
        make_private_folder(path.parent)
        try:
            with os.fdopen(
                os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w"
            ) as file:
                json.dump({"url": account.url, "key": account.key}, file)
                file.flush()
                os.fsync(file.fileno())
            fresh.replace(path)
        finally:
            with contextlib.suppress(FileNotFoundError):
                fresh.unlink()
    except OSError as error:
        raise Failed(f"{show(str(error.filename or path))}: {error.strerror}") from error
    return path


def make_private_folder(path: Path) -> Path:
    """Create the folder, and restrict it to this user even if it existed before. Raises OSError."""
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    path.chmod(0o700)
    return path
