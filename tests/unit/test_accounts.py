"""The choice of the server and the key, and the permissions of files that hold a key."""

import os
from pathlib import Path

import pytest

from service.cli.client.accounts import (
    HERE,
    Account,
    Server,
    check_url,
    find_account,
    find_login_file,
    read_login,
    write_login,
)
from service.cli.client.exit_codes import Failed, NotAllowed, WrongUse

KEY = "assay_0123456789abcdef"
HOME = Account("https://files.example.com", KEY)


@pytest.fixture
def environ(tmp_path: Path) -> dict[str, str]:
    return {"XDG_CONFIG_HOME": str(tmp_path / "config")}


def test_a_login_is_readable_by_its_owner_alone(environ: dict[str, str], tmp_path: Path) -> None:
    assert read_login(environ) is None
    folder = tmp_path / "config" / "assay"
    folder.mkdir(parents=True, mode=0o755)
    path = write_login(HOME, environ)
    assert path == find_login_file(environ)
    assert path.stat().st_mode & 0o777 == 0o600
    assert folder.stat().st_mode & 0o777 == 0o700
    assert find_account(HERE, environ) == HOME
    assert list(folder.iterdir()) == [path]
    assert KEY not in repr(find_account(HERE, environ))


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o644])
def test_a_login_or_a_key_that_others_can_reach_is_refused(
    environ: dict[str, str], mode: int, tmp_path: Path
) -> None:
    write_login(HOME, environ).chmod(mode)
    with pytest.raises(NotAllowed, match="chmod 600"):
        find_account(HERE, environ)
    (tmp_path / "key").write_text(KEY)
    (tmp_path / "key").chmod(mode)
    with pytest.raises(NotAllowed, match="can be read by other users"):
        find_account(Server(url="http://a", key_file=tmp_path / "key"), environ)


def test_the_key_of_a_login_goes_to_its_own_server_alone(environ: dict[str, str]) -> None:
    write_login(HOME, environ)
    assert find_account(Server(url="https://files.example.com/"), environ) == HOME
    for other in (
        "http://files.example.com",
        "https://files.example.com.evil.example",
        "https://files.example.com:444",
    ):
        with pytest.raises(NotAllowed, match="not sent to"):
            find_account(Server(url=other), environ)
        with pytest.raises(NotAllowed, match="not sent to"):
            find_account(HERE, environ | {"ASSAY_URL": other})


def test_options_precede_the_environment_which_precedes_a_login(
    environ: dict[str, str], tmp_path: Path
) -> None:
    write_login(HOME, environ)
    (tmp_path / "key").write_text("from-option\n")
    (tmp_path / "other").write_text("from-file")
    for path in ("key", "other"):
        (tmp_path / path).chmod(0o600)
    named = environ | {"ASSAY_URL": "http://env", "ASSAY_KEY": "from-env"}
    assert find_account(Server("http://option", tmp_path / "key"), named) == Account(
        "http://option", "from-option"
    )
    assert find_account(HERE, named) == Account("http://env", "from-env")
    assert find_account(HERE, environ | {"ASSAY_KEY_FILE": str(tmp_path / "other")}) == Account(
        HOME.url, "from-file"
    )


def test_an_error_names_the_missing_server_or_key(environ: dict[str, str], tmp_path: Path) -> None:
    with pytest.raises(WrongUse, match="ASSAY_URL"):
        find_account(HERE, environ)
    with pytest.raises(NotAllowed, match="there is no key"):
        find_account(Server(url="http://a"), environ)
    with pytest.raises(Failed, match="No such file"):
        find_account(Server(url="http://a", key_file=tmp_path / "none"), environ)


@pytest.mark.parametrize("key", ["", " ", "a b", "a\nb", "é", "x" * 5000])
def test_an_invalid_key_is_refused_and_not_shown(
    environ: dict[str, str], tmp_path: Path, key: str
) -> None:
    path = tmp_path / "key"
    path.write_text(key)
    path.chmod(0o600)
    with pytest.raises(WrongUse) as refused:
        find_account(Server(url="http://a", key_file=path), environ)
    assert "contains no key" in str(refused.value)


def test_a_damaged_login_asks_for_a_new_one(environ: dict[str, str]) -> None:
    path = write_login(HOME, environ)
    for text in ("", "{", "[]", '{"url": "http://a"}', '{"url": 1, "key": "k"}'):
        path.write_text(text)
        with pytest.raises(Failed, match="sign in again"):
            read_login(environ)


@pytest.mark.parametrize(
    "url",
    [
        "",
        "files.example.com",
        "ftp://a",
        "http://",
        "http://a:99999",
        "http://u:p@a",
        "http://a/?q",
        "http://a b",
        "http://a\x1b",
        "http://[::1",
    ],
)
def test_an_invalid_address_is_refused(url: str) -> None:
    with pytest.raises(WrongUse) as refused:
        check_url(url)
    assert "\x1b" not in str(refused.value)


def test_a_key_may_come_through_a_pipe(environ: dict[str, str]) -> None:
    reads, writes = os.pipe()
    with os.fdopen(writes, "w") as pipe:
        pipe.write(KEY)
    assert (
        find_account(Server(url="http://a", key_file=Path(f"/dev/fd/{reads}")), environ).key == KEY
    )
    os.close(reads)
