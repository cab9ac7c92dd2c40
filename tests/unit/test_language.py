"""The check of the project's language finds each kind of fault, and accepts plain text."""

from pathlib import Path

import pytest

from tests.language import check_file

PYTHON = Path("service/example.py")


def find_messages(source: str, path: Path = PYTHON) -> list[str]:
    return [finding.message for finding in check_file(path, source)]


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("# Nobody reads this.\n", '"Nobody"'),
        ('"""What is written for whoever comes."""\n', '"whoever"'),
        ('raise ValueError(f"{name} is of ours")\n', '"of ours"'),
        ("def test_nobody_is_let_in() -> None: ...\n", '"nobody"'),
        ('def end() -> None:\n    """Raises Gone."""\n', "does not say what the code does"),
        ('def end() -> None:\n    """(b)"""\n', "does not say what the code does"),
        ('def end() -> None:\n    """The end of it."""\n', "begins with a verb"),
        (f"x = 1  # {'word ' * 20}\n", "characters, at most 100"),
        (f"def test_{'a' * 71}() -> None: ...\n", "71 characters, at most 70"),
    ],
)
def test_each_kind_of_fault_is_found(source: str, found: str) -> None:
    (message,) = find_messages(source)
    assert found in message


@pytest.mark.parametrize(
    "source",
    [
        'def end() -> None:\n    """Return the end. Raises Gone if there is none."""\n',
        'user = "nobody"\n',
        '"""The role of PostgreSQL\'s process is `nobody`."""\n',
        f'url = "https://example.com/{"a" * 100}"\n',
    ],
)
def test_plain_text_names_and_addresses_are_accepted(source: str) -> None:
    assert find_messages(source) == []


def test_documents_are_read_without_their_code() -> None:
    document = "Text.\n\n```sh\necho nobody\n```\n\n    nobody\n\n| " + "cell " * 30 + "|\n"
    assert find_messages(document, Path("docs/example.md")) == []
    assert len(find_messages("Nobody reads this.\n", Path("docs/example.md"))) == 1
