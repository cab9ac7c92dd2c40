"""Debian's nginx with docs/deploy/nginx.conf, in front of a real store and a real API.

The documented file is the tested one: addresses, names and certificates are replaced where they stand in it, and every replacement
must hit.
"""

import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from service.embedded.processes import answers
from tests.support.programs import find_program
from tests.support.servers import wait_until

DOCUMENTED: Final = Path(__file__).parents[2] / "docs" / "deploy" / "nginx.conf"
STOP_SECONDS: Final = 20
TEMPORARY: Final = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
# The folders of temporary files have folders in them, which stay when a file is gone.
MAIN: Final = """\
daemon off;
pid {folder}/pid;
error_log {folder}/error.log notice;
worker_processes {workers};
events {{
    worker_connections 512;
}}
http {{
    access_log off;
    {temporary}
    include {folder}/assay.conf;
}}
"""


# What operators add for WebSockets and for kept connections. One worker and one kept connection, so that all clients share it.
WEBSOCKETS: Final = {
    r"(upstream assay_api \{\n.*\n)": r"\1    keepalive 1;\n",
    r"(location / \{\n(?:.*\n)*?) *proxy_set_header Connection \"\";\n": (
        "\\1        proxy_set_header Upgrade $http_upgrade;\n        proxy_set_header Connection $connection_upgrade;\n"
    ),
    r"\A": "map $http_upgrade $connection_upgrade {\n    default upgrade;\n    '' '';\n}\n",
}


@dataclass(frozen=True)
class Nginx:
    """A running one."""

    url: str
    folder: Path

    def buffered(self) -> list[str]:
        """Which files it has kept on disk, by the folders that these were in."""
        return [str(path) for name in TEMPORARY for path in (self.folder / name).rglob("*")]

    def read_logs(self) -> str:
        return "".join(path.read_text() for path in sorted(self.folder.glob("*.log")))


@dataclass(frozen=True)
class Servers:
    """Behind it: `api` and `store` are `host:port`."""

    api: str
    store: str
    bucket: str


@dataclass(frozen=True)
class Certificate:
    """For `localhost` and 127.0.0.1, signed by itself."""

    chain: Path
    key: Path


def documented(
    folder: Path, port: int, servers: Servers, *, certificate: Certificate | None
) -> str:
    """The file for this machine. Without a certificate it listens in plain HTTP; the redirect from port 80 has a port that is free."""
    scheme = " ssl http2" if certificate else ""
    chain, key = (certificate.chain, certificate.key) if certificate else ("", "")
    replacements = {
        r"server 127\.0\.0\.1:8000;": f"server {servers.api};",
        r"server 127\.0\.0\.1:9000;": f"server {servers.store};",
        r"/assay-incoming/": f"/{servers.bucket}/",
        r"listen 80;": f"listen unix:{folder}/redirect.sock;",
        r"listen 443 ssl http2;": f"listen 127.0.0.1:{port}{scheme};",
        r" *listen \[::\].*\n": "",
        r"/var/log/nginx/": f"{folder}/",
        r" *ssl_certificate .*\n": f"ssl_certificate {chain};\n" if certificate else "",
        r" *ssl_certificate_key .*\n": f"ssl_certificate_key {key};\n" if certificate else "",
    }
    text = DOCUMENTED.read_text(encoding="utf-8")
    for pattern, replacement in replacements.items():
        text, count = re.subn(pattern, lambda _, by=replacement: by, text)  # type: ignore[misc]  # mypy infers no lambda with a default
        assert count, f"{pattern} is not in {DOCUMENTED}"
    return text


def add_websockets(text: str) -> str:
    """Return the file with the usual lines for WebSockets, each of which must find its place."""
    for pattern, replacement in WEBSOCKETS.items():
        text, count = re.subn(pattern, replacement, text, count=1)
        assert count, f"{pattern} is not in {DOCUMENTED}"
    return text


def find_nginx() -> Path:
    """Skips the test where there is none."""
    return find_program("nginx", "nginx-light")


@contextmanager
def running_nginx(
    folder: Path,
    port: int,
    servers: Servers,
    *,
    certificate: Certificate | None = None,
    buffering: bool = False,
    websockets: bool = False,
) -> Iterator[Nginx]:
    """At that port of the loopback, until it has ended. `buffering`: as nginx does by default. `websockets`: with the lines for these."""
    program = find_nginx()
    folder.mkdir(mode=0o711)
    temporary = [f"{name}_temp_path {folder}/{name} 1;" for name in TEMPORARY]
    text = documented(folder, port, servers, certificate=certificate)
    if buffering:
        text = re.sub(r"proxy_(request_)?buffering off;|proxy_max_temp_file_size 0;", "", text)
    workers = 2
    if websockets:
        text, workers = add_websockets(text), 1
    (folder / "assay.conf").write_text(text)
    (folder / "nginx.conf").write_text(
        MAIN.format(folder=folder, workers=workers, temporary="\n    ".join(temporary))
    )
    said = folder / "said"
    with said.open("w") as output:
        process = subprocess.Popen(
            [program, "-p", folder, "-c", folder / "nginx.conf"],
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        wait_until(lambda: process.poll() is not None or listens(port, certificate))
        assert process.poll() is None, said.read_text()
        yield Nginx(f"http{'s' if certificate else ''}://127.0.0.1:{port}", folder)
    finally:
        process.terminate()
        process.wait(STOP_SECONDS)


def listens(port: int, certificate: Certificate | None) -> bool:
    """By an answer that is nginx's own; plain HTTP on its TLS port has one too."""
    return answers(port, "/metrics", host="127.0.0.1", status=400 if certificate else 404)


def make_certificate(folder: Path) -> Certificate:
    made = Certificate(folder / "chain.pem", folder / "key.pem")
    openssl = shutil.which("openssl")
    assert openssl is not None
    command = [
        openssl,
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:prime256v1",
        "-nodes",
        "-days",
        "2",
    ]
    command += ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"]
    subprocess.run(
        [*command, "-out", made.chain, "-keyout", made.key], check=True, capture_output=True
    )
    return made
