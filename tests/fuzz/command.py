"""The command fuzzer. It runs `assay` as separate processes, and checks what they leave.

1. A round has an owner and a home folder of its own, and EXAMPLES cases. Hypothesis draws them from
   the seed and the number of the round. A later case meets the files of the earlier ones.
2. A case creates local files, runs one command with the drawn streams and environment, and waits
   for its end, which is bounded. The exit status is documented, and standard error has no
   traceback.
3. Each new file of the server consists of the bytes of a local file, or of standard input. If `put`
   ends with 0, the server has the bytes of each named file.
4. The command leaves the local files as they were, with their modes and times. Only `get` writes
   new ones, which consist of the bytes of a file of the server and are not hidden unless that was
   asked for.
5. At the end, every object must have its row, and every proved file must consist of the bytes that
   its row describes.
"""

import contextlib
import json
import os
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final
from uuid import UUID

import httpx
from hypothesis import HealthCheck, Phase, given, seed, settings

from service.auth.principals import make_key
from service.model import make_id
from service.queries.keys import create_key
from tests.e2e.commands import clean_environment
from tests.e2e.hostile_http.site import Site
from tests.fuzz.command_cases import OPTIONS, Case, LocalFile, cases
from tests.fuzz.command_checks import (
    Entry,
    check_all_sent,
    check_end,
    check_kept,
    check_sent,
    check_written,
    read_tree,
)
from tests.fuzz.command_processes import Ended, run_command
from tests.support.trust import TRUSTED

Rows = dict[UUID, dict[str, Any]]
"""The rows of an owner's files, by their ids, in the order of their creation."""

EXAMPLES: Final = 100
ROWS: Final = """
    SELECT id, filename, state, size, hash FROM files WHERE owner = $1 ORDER BY id
"""


@dataclass(frozen=True)
class Finding:
    """A violation of the rules above, and the case that causes it."""

    number: int
    what: str
    case: Case

    def __str__(self) -> str:
        return f"case {self.number}: {self.what}\n  {self.case!s:.3000}"


@dataclass
class Tally:
    """The counts and the findings of a run. `statuses` counts exit statuses."""

    cases: int = 0
    sent: int = 0
    written: int = 0
    statuses: dict[int, int] = field(default_factory=dict)
    commands: dict[str, int] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)

    def describe(self) -> str:
        statuses = ", ".join(
            f"{status}: {self.statuses[status]}" for status in sorted(self.statuses)
        )
        commands = ", ".join(f"{name}: {self.commands[name]}" for name in sorted(self.commands))
        return (
            f"{self.cases} cases ({commands}), exit statuses {statuses}, {self.sent} files sent, "
            f"{self.written} files written, {len(self.findings)} findings"
        )


PLANTED: Final = (
    *[(name, "") for name in ("a", "a.txt", "c d", "é ü.txt", "-r", ".hidden", "CON", "ab" * 32)],
    *[("x", path) for path in ("f/a", "f/.git/x", ".ssh/x", "../x", "f/../../x", "/x", "f/d/e/g")],
    ("0198f1c2-0000-7000-8000-000000000000", ""),
)
"""The names and stored paths of the files that each owner has at first."""


class Round:
    """One round: an owner, the owner's key, and a folder."""

    def __init__(self, site: Site, folder: Path) -> None:
        self.site = site
        self.folder = folder
        self.home = folder / "home"
        self.here = folder / "here"
        self.home.mkdir(parents=True)
        self.owner = f"fuzz-{make_id().hex}"
        self.key = self.make_key()
        self.plant()

    def make_key(self) -> str:
        text, secret = make_key()
        self.site.runner.run(
            create_key(
                self.site.resources.pool,
                key_id=make_id(),
                owner=self.owner,
                name="fuzz",
                secret=secret,
                scopes=["read", "write"],
                expires_at=None,
            )
        )
        return text

    def plant(self) -> None:
        """Upload files with names and paths that commands of the round ask for."""
        headers = {"Authorization": f"Bearer {self.key}"}
        with httpx.Client(
            base_url=self.site.url, headers=headers, timeout=60, verify=TRUSTED
        ) as client:
            for number, (name, path) in enumerate(PLANTED):
                metadata = {"metadata": json.dumps({"path": path})} if path else {}
                about = {"filename": name} | metadata
                answer = client.post("/files/upload", params=about, content=b"%d" % number * 1000)
                answer.raise_for_status()

    def read_rows(self) -> Rows:
        rows = self.site.runner.run(self.site.resources.pool.fetch(ROWS, self.owner))
        return {row["id"]: dict(row) for row in rows}

    def make_folder(self, files: Sequence[LocalFile]) -> dict[bytes, Entry]:
        """Create the working directory of a case anew, and return its files."""
        if self.here.exists():
            shutil.rmtree(self.here)
        self.here.mkdir()
        make_files(self.here, files)
        return read_tree(self.here)

    def check_home(self) -> Iterator[str]:
        for kept in self.home.iterdir():
            if kept.name not in (".local", ".config"):
                yield f"{kept} was written in the home folder"

    def environ(self, changes: Mapping[str, str]) -> dict[str, str]:
        plain = {
            name: value
            for name, value in clean_environment().items()
            if not name.startswith(("XDG_", "PYTHON"))
        }
        own = {"ASSAY_URL": self.site.url, "ASSAY_KEY": self.key, "HOME": str(self.home)}
        return plain | own | dict(changes)


class CommandFuzzer:
    """A run against one server, with its cases in `folder`."""

    def __init__(self, site: Site, number: int, folder: Path) -> None:
        self.site = site
        self.seed = number
        self.folder = folder
        self.tally = Tally()

    def run(self, rounds: Iterator[int], *, seconds: float) -> Tally:
        deadline = time.monotonic() + seconds
        for number in rounds:
            if time.monotonic() > deadline:
                break
            self.run_round(number, deadline)
        self.site.check_buckets()
        return self.tally

    def run_round(self, number: int, deadline: float) -> None:
        numbers = iter(range(number * EXAMPLES, (number + 1) * EXAMPLES * 100))
        folder = self.folder / f"round-{number}"
        playing = Round(self.site, folder)
        seen: set[object] = set()

        @seed(self.seed * 1_000_003 + number)
        @settings(
            max_examples=EXAMPLES,
            phases=[Phase.generate],
            database=None,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        )
        @given(cases())
        def play(case: Case) -> None:
            if case.shape not in seen and time.monotonic() < deadline:
                seen.add(case.shape)  # Hypothesis draws variants of each case
                self.try_case(next(numbers), case, playing)

        play()
        shutil.rmtree(folder)

    def try_case(self, number: int, case: Case, playing: Round) -> None:
        known = playing.read_rows()
        before = playing.make_folder(case.files)
        ended = run_command(
            case, list(known), folder=playing.here, environ=playing.environ(case.environ)
        )
        self.count(case, ended)
        found = [*check_end(ended), *self.check(case, ended, playing, known=known, before=before)]
        self.tally.findings += [Finding(number, what, case) for what in found]

    def count(self, case: Case, ended: Ended) -> None:
        name = case.command.decode() if case.command in OPTIONS else "(other)"
        self.tally.cases += 1
        self.tally.commands[name] = self.tally.commands.get(name, 0) + 1
        if ended.status is not None:
            self.tally.statuses[ended.status] = self.tally.statuses.get(ended.status, 0) + 1

    def check(
        self,
        case: Case,
        ended: Ended,
        playing: Round,
        *,
        known: Rows,
        before: Mapping[bytes, Entry],
    ) -> Iterator[str]:
        """Run the checks of rules 3 and 4 of the module."""
        rows, after = playing.read_rows(), read_tree(playing.here)
        ready = {key: row for key, row in rows.items() if row["state"] == "ready"}
        sent = [row for key, row in ready.items() if key not in known]
        written = {path: entry for path, entry in after.items() if path not in before}
        self.tally.sent += len(sent)
        self.tally.written += len(written)
        present = {row["hash"].hex() for row in ready.values()}
        former = {row["hash"].hex() for row in known.values() if row["hash"] is not None}
        yield from check_sent(case, sent, before)
        yield from check_all_sent(case, ended, present, before)
        yield from check_kept(case, before, after, former)
        yield from check_written(case, written, former)
        yield from playing.check_home()


def make_files(folder: Path, files: Sequence[LocalFile]) -> None:
    """Create the files, as far as their paths agree, and three links."""
    for file in files:
        path = os.path.join(os.fsencode(folder), file.path)
        try:
            os.makedirs(os.path.dirname(path), exist_ok=True)
            with open(path, "xb") as opened:
                opened.write(file.content())
            os.utime(path, (file.seconds, file.seconds))
            os.chmod(path, file.mode)
        except OSError:
            continue  # another file has the name of this one's folder, or the path is too long
    for name, target in (("link", "a"), ("loop", "loop"), ("gone", "nowhere")):
        with contextlib.suppress(OSError):
            (folder / name).symlink_to(target)
