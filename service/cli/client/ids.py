"""Actions on files by id, one after the other. A failure of one file does not stop the others."""

import json as json_text
import sys
from collections.abc import Callable, Iterable
from typing import Any
from uuid import UUID

from service.cli.client.exit_codes import NotAllowed, Outcomes, explain


def for_each(ids: Iterable[UUID], act: Callable[[UUID], None], *, json: bool) -> None:
    """Run `act` for each id, and report failures.

    Raises Ending if one or more failed. A refused key ends the command at once.
    """
    outcomes = Outcomes()
    for file_id in ids:
        try:
            act(file_id)
            outcomes.done += 1
        except Exception as error:
            ending = explain(error)
            if isinstance(ending, NotAllowed):
                raise ending from error
            outcomes.failed.append(type(ending))
            print(f"{file_id}: {ending}", file=sys.stderr)
            if json:
                print_object({"id": str(file_id), "error": str(ending)})
    outcomes.end()


def print_object(about: dict[str, Any]) -> None:
    """Print one line of ASCII, which cannot contain control sequences for a terminal."""
    print(json_text.dumps(about), flush=True)
