"""Checks of three clocks: the database's, which alone counts in Assay; the store's, by which
signatures expire; and this machine's, which signs the service's requests.
"""

from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Final

from service.operations.doctor.anonymous_requests import send
from service.operations.doctor.finding import Finding, failed, ok, warning
from service.queries.files import ask_time
from service.resources import Resources

NOTABLE_SECONDS: Final = 5.0
HARMFUL_SECONDS: Final = 60.0
ADVICE: Final = (
    "synchronize the clocks of all machines (NTP): the database's clock sets the lifetime of a URL,"
    " and the store's clock enforces it"
)


async def check_clocks(resources: Resources) -> list[Finding]:
    before = datetime.now(UTC)
    database = await ask_time(resources.pool)
    between = datetime.now(UTC)
    answer = await send("GET", f"{resources.settings.s3_endpoint}/")
    after = datetime.now(UTC)
    behind = (database - (before + (between - before) / 2)).total_seconds()
    findings = [judge("database", behind)]
    if answer.date is None:
        return [
            *findings,
            warning("clock of the store", "the store's responses have no Date header", ADVICE),
        ]
    # Date has whole seconds, so that half a second is missing on average.
    store = (
        parsedate_to_datetime(answer.date).timestamp()
        + 0.5
        - (between + (after - between) / 2).timestamp()
    )
    return [*findings, judge("store", store - behind)]


def judge(whose: str, seconds: float) -> Finding:
    against = "this machine's" if whose == "database" else "the database's"
    name, what = f"clock of the {whose}", f"{seconds:+.1f} s against {against}"
    if abs(seconds) >= HARMFUL_SECONDS:
        return failed(name, what, ADVICE)
    return ok(name, what) if abs(seconds) < NOTABLE_SECONDS else warning(name, what, ADVICE)
