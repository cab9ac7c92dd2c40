"""`assay doctor`: prints one line per check. The exit status is 1 if a check failed."""

import os
from collections.abc import AsyncIterator

import msgspec

from service.operations.doctor import Finding, examine
from service.operations.doctor.finding import failed, ok
from service.resources import open_resources
from service.settings import Settings, SettingsError, read_settings
from service.telemetry.logs import configure_logs


async def doctor(*, json: bool = False) -> int:
    """Test this deployment. Run the command where the API runs, with the same settings.

    Parameters
    ----------
    json
        Print a JSON array of findings.
    """
    configure_logs("error")
    findings = []
    async for finding in examine_environment():
        findings.append(finding)
        if not json:
            print(describe(finding), flush=True)
    if json:
        print(msgspec.json.encode(findings).decode())
    return int(any(finding.status == "failed" for finding in findings))


async def examine_environment() -> AsyncIterator[Finding]:
    try:
        settings = read_settings(os.environ, Settings)
    except SettingsError as error:
        for line in str(error).splitlines():
            yield failed("settings", line, "correct it; the documentation lists all settings")
        return
    yield ok("settings", "complete and well formed")
    async with open_resources(settings) as resources:
        async for finding in examine(resources):
            yield finding


def describe(finding: Finding) -> str:
    advice = f"\n{'':<9}→ {finding.advice}" if finding.advice else ""
    return f"{finding.status:<9}{finding.name}: {finding.what}{advice}"
