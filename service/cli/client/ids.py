"""Files by their ids, one after the other; what is wrong with one does not keep the others."""

import json as json_text
import sys
from collections.abc import Callable, Iterable
from typing import Any
from uuid import UUID

from service.cli.client.exit_codes import NotAllowed, Outcomes, explain


def for_each(ids: Iterable[UUID], act: Callable[[UUID], None], *, json: bool) -> None:
    """Raises Ending when one or more failed. A key that is refused ends all at once."""
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
    """One line of ASCII: nothing in it can reach a terminal as more than text."""
    print(json_text.dumps(about), flush=True)
