"""A check that the database agrees with the vault."""

from service.operations.doctor.finding import Finding, failed, ok
from service.resources import Resources


async def check_marker(resources: Resources) -> list[Finding]:
    standing = await resources.guard.check()
    if standing.stopped is None:
        return [ok("marker", f"the database agrees with the vault (counter {standing.counter})")]
    what, _, advice = standing.stopped.rpartition(": ")
    return [failed("marker", f"nothing is verified or deleted: {what}", advice)]
