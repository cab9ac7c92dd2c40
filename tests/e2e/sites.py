"""A separate store, and the production processes over it, which only ASSAY_* configures."""

import secrets
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import msgspec

from service.embedded import Webhook
from service.embedded.processes import answers
from service.settings import WorkerSettings
from tests.e2e.commands import run, started
from tests.support.servers import reserved_port, start_test_store, wait_until


@dataclass(frozen=True)
class Site:
    """A separate store after `assay bootstrap`, and the environment of every process."""

    environ: dict[str, str] = field(repr=False)
    url: str
    log: Path
    stack: ExitStack = field(repr=False)

    def start(self, *arguments: str, **other: str) -> subprocess.Popen[str]:
        """Start `assay` with these arguments. `other` adds or replaces environment variables."""
        return self.stack.enter_context(
            started(arguments, self.log, environ={**self.environ, **other})
        )

    def start_api(self, *, with_worker: bool = False) -> subprocess.Popen[str]:
        port = self.url.rpartition(":")[2]
        api = self.start(
            "serve",
            "--host",
            "127.0.0.1",
            "--port",
            port,
            *([] if with_worker else ["--no-worker"]),
        )
        wait_until(lambda: api.poll() is not None or is_ready(self.url))
        return api

    def start_worker(self, **other: str) -> subprocess.Popen[str]:
        begun = self.log.read_text().count("worker started")
        environ = {**keep_settings(self.environ, WorkerSettings), **other}
        worker = self.stack.enter_context(started(["worker"], self.log, environ=environ))
        wait_until(
            lambda: (
                worker.poll() is not None or self.log.read_text().count("worker started") > begun
            )
        )
        return worker

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return run(arguments, environ=self.environ)


def keep_settings(environ: dict[str, str], kind: type[msgspec.Struct]) -> dict[str, str]:
    """Return the environment without the settings that this kind of process does not read."""
    kept = {f"ASSAY_{field.upper()}" for field in kind.__struct_fields__}
    return {
        name: value
        for name, value in environ.items()
        if not name.startswith("ASSAY_") or name in kept
    }


def is_ready(url: str) -> bool:
    return answers(urlsplit(url).port or 0, "/health/ready", host="127.0.0.1", status=200)


@contextmanager
def open_site(kind: str, folder: Path, log: Path, *, database_url: str) -> Iterator[Site]:
    """Start a store of that kind in `folder`, bootstrap it, and stop all processes at exit."""
    token = secrets.token_urlsafe(32)
    with ExitStack() as stack:
        port = stack.enter_context(reserved_port())
        webhook = Webhook(f"http://127.0.0.1:{port}/webhooks/minio", token)
        store = stack.enter_context(
            start_test_store(kind, folder / f"site-{port}", {"ASSAY": webhook})
        )
        name = secrets.token_hex(4)
        settings = {
            "DATABASE_URL": database_url,
            "S3_ENDPOINT": store.endpoint,
            "S3_ACCESS_KEY": secrets.token_hex(10),
            "S3_SECRET_KEY": secrets.token_hex(20),
            "S3_SIGNER_ACCESS_KEY": secrets.token_hex(10),
            "S3_SIGNER_SECRET_KEY": secrets.token_hex(20),
            "WEBHOOK_TOKEN": token,
            "INCOMING_BUCKET": f"incoming-{name}",
            "VAULT_BUCKET": f"vault-{name}",
        }
        environ = {f"ASSAY_{key}": value for key, value in settings.items()}
        root = {
            "ASSAY_S3_ROOT_ACCESS_KEY": store.root_access_key,
            "ASSAY_S3_ROOT_SECRET_KEY": store.root_secret_key,
        }
        made = run(["bootstrap"], environ=environ | root)
        assert made.returncode == 0, made.stderr
        log.touch()
        yield Site(environ, f"http://127.0.0.1:{port}", log, stack)
