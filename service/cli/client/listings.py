"""The output of files as lines, as fields and as JSON."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import msgspec

from service.cli.client.display import show, show_size, show_time
from service.cli.client.names import UnsafeName, split_path

if TYPE_CHECKING:
    from assay import File

KEPT = "path"
"""The metadata field for a file's path below the folder from which it was sent."""
HEADING = f"{'ID':<36}  {'STATE':<9}  {'SIZE':>8}  {'CREATED (UTC)':<19}  NAME"


def find_path(file: "File") -> str | None:
    """Return the stored path, or None if there is none or it is unsafe."""
    kept = file.metadata.get(KEPT)
    try:
        return kept if kept and split_path(kept) else None
    except UnsafeName:
        return None


def name_file(file: "File") -> str:
    return find_path(file) or file.filename


def describe_row(file: "File") -> str:
    size, created = show_size(file.size), show_time(file.created_at)
    return f"{file.id}  {show(file.state):<9}  {size:>8}  {created}  {show(name_file(file))}"


def describe_fields(file: "File") -> Iterator[str]:
    for name, value in as_object(file).items():
        if isinstance(value, dict):
            yield from (
                f"{name + '.' + show(key):<20} {show(str(text))}" for key, text in value.items()
            )
        elif value is not None:
            yield (
                f"{name:<20} {show(str(value))}"
                f"{f' ({show_size(value)})' if name == 'size' and value > 999 else ''}"
            )


def as_object(file: "File") -> dict[str, Any]:
    found: dict[str, Any] = msgspec.to_builtins(file)
    return found
