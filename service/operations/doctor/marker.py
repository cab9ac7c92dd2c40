"""A check that the database agrees with the vault."""

from typing import Final

from service.marker.guard import ADVICE
from service.operations.doctor.finding import Finding, failed, ok
from service.resources import Resources

PAGE: Final = "docs/operations.md"


async def check_marker(resources: Resources) -> list[Finding]:
    standing = await resources.guard.check()
    if standing.stopped is None:
        return [ok("marker", f"the database agrees with the vault (counter {standing.counter})")]
    what = standing.stopped.removesuffix(f": {ADVICE}")
    return [failed("marker", f"nothing is verified or deleted: {what}", f"{ADVICE}, or see {PAGE}")]
