"""A running `assay dev`, as the tests use it."""

import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from tests.support.trust import TRUSTED


@dataclass(frozen=True)
class Dev:
    """A running `assay dev`. `line` is the JSON object that it printed when it was ready."""

    process: subprocess.Popen[str] = field(repr=False)
    line: dict[str, Any] = field(repr=False)
    data: Path

    @property
    def client(self) -> httpx.AsyncClient:
        return httpx.AsyncClient(
            base_url=self.line["api"],
            headers={"Authorization": f"Bearer {self.line['key']}"},
            timeout=60,
            verify=TRUSTED,
        )
