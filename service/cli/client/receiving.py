"""The receiving of files, several at once (worker_pool.py).

The client writes a hidden partial file, checks its digest and renames it.
"""

import stat
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from service.cli.client.choosing import Chosen
from service.cli.client.display import show, show_size
from service.cli.client.exit_codes import Failed
from service.cli.client.listings import as_object
from service.cli.client.names import HiddenName, UnsafeName, check_name, check_visible, split_path
from service.cli.client.reports import Report
from service.cli.client.targets import Targets
from service.cli.client.worker_pool import WorkerPool

if TYPE_CHECKING:
    from assay import Client, File


class Receiver:
    """A receiver of the files that are passed to its pool.

    `single` is the path if only one file is received. With `hidden`, hidden files are written.
    """

    def __init__(
        self,
        client: "Client",
        report: Report,
        targets: Targets,
        *,
        single: Path | None,
        hidden: bool,
        times: bool,
        jobs: int,
    ) -> None:
        self._client = client
        self._report = report
        self._targets = targets
        self._single = single
        self._hidden = hidden
        self._times = times
        self.pool: WorkerPool[Chosen] = WorkerPool(
            self._receive, report, name=name_chosen, jobs=jobs
        )

    def _receive(self, chosen: Chosen) -> None:
        file = chosen.file
        path = self._single or self._targets.place(find_names(chosen, hidden=self._hidden))
        outcome = "received"
        if file.state == "ready" and not is_device(path) and self._targets.is_there(path, file):
            outcome = "skipped"
            self._report.count(file.size)
        else:
            self.pool.watch(
                name_chosen(chosen),
                file.size,
                lambda progress: self._client.download(
                    file, path, keep_time=self._times, progress=progress
                ),
            )
        about = {"id": str(file.id), "path": str(path), "outcome": outcome, "file": as_object(file)}
        end = "" if outcome == "received" else "  (already received)"
        self.pool.succeed(f"{file.id}  {show_size(file.size):>8}  {show(str(path))}{end}", about)


def is_device(path: Path) -> bool:
    """Return whether the path can be written but not read again, such as /dev/null or a pipe.

    Only a path that the user named can be one.
    """
    try:
        mode = path.stat().st_mode
    except OSError:
        return False
    return stat.S_ISCHR(mode) or stat.S_ISFIFO(mode)


def name_chosen(chosen: Chosen) -> str:
    return chosen.kept or chosen.file.filename


def find_names(chosen: Chosen, *, hidden: bool) -> list[str]:
    """Return the components of the file's path. Raises Failed.

    A hidden one is refused without `hidden`. Otherwise a user with a `write` key could place
    `.ssh/authorized_keys` in another user's home folder.
    """
    try:
        names = (
            split_path(chosen.kept)
            if chosen.kept is not None
            else [check_name(chosen.file.filename)]
        )
        if not hidden and not chosen.may_be_hidden:
            check_visible(names)
    except HiddenName as error:
        raise Failed(
            f"not written, because {error}; use --hidden, or `-o PATH` with the id {chosen.file.id}"
        ) from error
    except UnsafeName as error:
        raise Failed(
            f"not written, because its name is unsafe: {error};"
            f" use `-o PATH` with the id {chosen.file.id}"
        ) from error
    return names


def write_to_output(client: "Client", file: "File", report: Report) -> None:
    """Write the file to standard output.

    Its digest is known only at the end. Raises DigestMismatch.
    """
    sys.stdout.flush()
    bar = report.start(file.filename, file.size)
    client.download(
        file,
        sys.stdout.buffer,
        progress=None if bar is None else lambda progress: bar.move(progress.bytes_done),
    )
    sys.stdout.buffer.flush()
    if bar is not None:
        bar.end(complete=True)
