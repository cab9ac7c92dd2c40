"""Actions on files by id, one after the other. A failure of one file does not stop the others."""

import json as json_text
import sys
from collections.abc import Callable, Iterable
from typing import Any
from uuid import UUID

from service.cli.client import STANDARD_STREAM
from service.cli.client.arguments import read_id
from service.cli.client.display import show
from service.cli.client.exit_codes import Away, NotAllowed, Outcomes, explain
from service.cli.standard_streams import print_result


def for_each(ids: Iterable[str], act: Callable[[UUID], None], *, json: bool) -> None:
    """Run `act` for each id, and report failures.

    Raises Ending if one or more failed. A refused key or an unavailable server ends the command at
    once.
    """
    outcomes = Outcomes()
    for text in ids:
        try:
            act(read_id(text))
            outcomes.done += 1
        except Exception as error:
            ending = explain(error)
            if isinstance(ending, NotAllowed | Away):
                raise ending from error
            outcomes.failed.append(type(ending))
            name = "-" if text == STANDARD_STREAM else text
            print(f"{show(name)}: {ending}", file=sys.stderr)
            if json:
                print_result(format_object({"id": name, "error": str(ending)}))
    outcomes.end()


def format_object(about: dict[str, Any]) -> str:
    """Return one line of ASCII, which cannot contain control sequences for a terminal."""
    return json_text.dumps(about)
