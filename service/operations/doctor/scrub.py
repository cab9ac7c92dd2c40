"""Checks of what the scrub has found."""

from datetime import timedelta
from typing import Final

from service.operations.doctor.finding import Finding, failed, ok, warning
from service.queries import scrubbing
from service.queries.scrubbing import ScrubState
from service.resources import Resources

RUNBOOK: Final = "docs/operations.md"


async def check_scrub(resources: Resources) -> list[Finding]:
    found = await scrubbing.read_state(resources.pool)
    settings = resources.settings
    wrong = [
        *find_damage(found),
        *find_lateness(found, every=settings.scrub_every, rate=settings.scrub_rate),
    ]
    oldest = describe_days(found.oldest_check_seconds)
    return wrong or [ok("scrub", f"no file is damaged; the oldest check was {oldest} ago")]


def find_damage(found: ScrubState) -> list[Finding]:
    findings = []
    if found.damaged:
        findings.append(
            failed(
                "scrub",
                f"{found.damaged} files are damaged: their objects are missing, altered or"
                " unreadable",
                f"restore the objects and run `assay reconcile`, or see {RUNBOOK}; `assay ls"
                " --state damaged` lists the files of one owner",
            )
        )
    if found.stopped_why is not None:
        findings.append(
            failed(
                "scrub",
                f"it stopped {describe_days(found.stopped_seconds or 0)} ago: {found.stopped_why}",
                f"see {RUNBOOK}, then run `assay scrub`",
            )
        )
    return findings


def find_lateness(found: ScrubState, *, every: timedelta, rate: int) -> list[Finding]:
    needed = (found.vault_bytes or 0) / rate
    if needed <= every.total_seconds():
        return []
    return [
        warning(
            "scrub",
            f"reading the vault once takes {describe_days(needed)} at ASSAY_SCRUB_RATE, and"
            f" ASSAY_SCRUB_EVERY is {describe_days(every.total_seconds())}",
            "raise one of them",
        )
    ]


def describe_days(seconds: float) -> str:
    return f"{seconds / 86_400:.1f} days"
