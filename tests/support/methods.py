"""The two ways in which a worker proves a file, so that a test can run over both."""

from dataclasses import dataclass
from typing import Final

import pytest

from service.worker import small_files


@dataclass(frozen=True)
class Method:
    """The methods of Bucket that read the incoming object first, and that write to the vault."""

    name: str
    look: str
    write: str


COPIED: Final = Method("copied", look="head", write="copy_from")
SMALL: Final = Method("small", look="get", write="put")
ONLY_COPIED: Final = pytest.mark.parametrize("method", [COPIED], indirect=True, ids=["copied"])
"""The mark of a test that concerns only the copy by the store."""


@pytest.fixture(params=[COPIED, SMALL], ids=lambda method: method.name)
def method(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Method:
    """Let files of every size be proved in one way."""
    chosen: Method = request.param
    if chosen == COPIED:
        monkeypatch.setattr(small_files, "SMALL_BYTES", -1)
    return chosen
