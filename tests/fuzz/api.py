"""A run of Schemathesis against one server, for a given time."""

import re
import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import msgspec

from tests.e2e.hostile_http.site import Site
from tests.support.generated_requests import command_for, give_example, shorten_waits

ENDLESS = r"^/events$"
"""The path that is left out, because Schemathesis reads each response to its end."""
GENERATED = re.compile(r"([0-9,]+) generated")


@dataclass
class ApiTally:
    """The counts and the findings of a run."""

    generated: str = "no"
    findings: list[str] = field(default_factory=list)

    def describe(self) -> str:
        return f"{self.generated} generated requests, {len(self.findings)} findings"


def fuzz_api(site: Site, folder: Path, *, seed: int, seconds: float) -> ApiTally:
    """Let Schemathesis generate requests for this time. Its output is the finding if it fails."""
    described = folder / "openapi.json"
    described.write_bytes(msgspec.json.encode(read_document(site)))
    command = command_for(str(described), site.url, key=site.key)
    command += ["--exclude-path-regex", ENDLESS, "--seed", str(seed)]
    ended = subprocess.run(
        [*command, "--max-time", str(round(seconds))],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        cwd=folder,
        check=False,
    )
    output = ended.stdout.decode(errors="replace")
    counted = GENERATED.search(output)
    return ApiTally(
        generated=counted[1] if counted else "no", findings=[output] if ended.returncode else []
    )


def read_document(site: Site) -> dict[str, Any]:
    document: dict[str, Any] = httpx.get(f"{site.url}/schema", timeout=60).json()
    shorten_waits(document)
    give_example(document, "file_id", site.ready)
    return document
