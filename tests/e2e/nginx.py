"""Debian's nginx with docs/deploy/nginx.conf, in front of a real store and a real API.

The tests use the documented file itself. They replace its addresses, names and certificates, and
fail if a text to be replaced does not occur in the file.
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
# nginx keeps the subfolders in the folders of temporary files after it deletes a file.
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


# The lines that operators add for WebSockets and for connections that are kept open. There is one
# worker and one such connection, so that all clients share it.
WEBSOCKETS: Final = {
    r"(upstream assay_api \{\n.*\n)": r"\1    keepalive 1;\n",
    r"(location / \{\n(?:.*\n)*?) *proxy_set_header Connection \"\";\n": (
        "\\1        proxy_set_header Upgrade $http_upgrade;\n"
        "        proxy_set_header Connection $connection_upgrade;\n"
    ),
    r"\A": "map $http_upgrade $connection_upgrade {\n    default upgrade;\n    '' '';\n}\n",
}


@dataclass(frozen=True)
class Nginx:
    """A running nginx and the folder of its files."""

    url: str
    folder: Path

    def buffered(self) -> list[str]:
        """Return the subfolders that nginx created for temporary files.

        They remain after nginx deletes the files, and show that it buffered a body on disk.
        """
        return [str(path) for name in TEMPORARY for path in (self.folder / name).rglob("*")]

    def read_logs(self) -> str:
        return "".join(path.read_text() for path in sorted(self.folder.glob("*.log")))


@dataclass(frozen=True)
class Servers:
    """The servers behind nginx. `api` and `store` have the form `host:port`.

    With `accel_secret`, the secret of the API's setting, nginx sends the bytes of downloads.
    """

    api: str
    store: str
    bucket: str
    accel_secret: str | None = None


@dataclass(frozen=True)
class Certificate:
    """A self-signed certificate for `localhost` and 127.0.0.1."""

    chain: Path
    key: Path


def documented(
    folder: Path, port: int, servers: Servers, *, certificate: Certificate | None, http2: bool
) -> str:
    """Return the documented file, adapted to this machine.

    Without a certificate, nginx listens in plain HTTP. With `http2`, it also offers HTTP/2, which
    the file does not. The redirect of port 80 listens on a Unix
    socket instead.
    """
    scheme = f" ssl{' http2' if http2 else ''}" if certificate else ""
    chain, key = (certificate.chain, certificate.key) if certificate else ("", "")
    replacements = {
        r"server 127\.0\.0\.1:8000;": f"server {servers.api};",
        r"server 127\.0\.0\.1:9000;": f"server {servers.store};",
        r"/assay-incoming/": f"/{servers.bucket}/",
        r"listen 80;": f"listen unix:{folder}/redirect.sock;",
        r"listen 443 ssl;": f"listen 127.0.0.1:{port}{scheme};",
        r" *listen \[::\].*\n": "",
        r"/var/log/nginx/": f"{folder}/",
        r" *ssl_certificate .*\n": f"ssl_certificate {chain};\n" if certificate else "",
        r" *ssl_certificate_key .*\n": f"ssl_certificate_key {key};\n" if certificate else "",
    }
    text = DOCUMENTED.read_text(encoding="utf-8")
    for pattern, replacement in replacements.items():
        text, count = re.subn(
            pattern,
            lambda _, by=replacement: by,  # type: ignore[misc]  # mypy infers no default
            text,
        )
        assert count, f"{pattern} is not in {DOCUMENTED}"
    return text if servers.accel_secret is None else use_accel(text, servers.accel_secret)


def use_accel(text: str, secret: str) -> str:
    """Return the file with its optional lines, as the first lines of the file say."""
    text, count = re.subn(r"(?m)^( *)#accel ", r"\1", text)
    assert count > 50, f"{DOCUMENTED} has no optional lines"
    assert text.count("CHANGE-ME") == 2
    return text.replace("CHANGE-ME", secret)


def add_websockets(text: str) -> str:
    """Return the file with the usual lines for WebSockets.

    Fails if the place of a line is not in the documented file.
    """
    for pattern, replacement in WEBSOCKETS.items():
        text, count = re.subn(pattern, replacement, text, count=1)
        assert count, f"{pattern} is not in {DOCUMENTED}"
    return text


def find_nginx() -> Path:
    """Return the path of nginx. If it is not available, skip the test, or fail it in CI."""
    return find_program("nginx", "nginx-light")


@contextmanager
def running_nginx(
    folder: Path,
    port: int,
    servers: Servers,
    *,
    certificate: Certificate | None = None,
    http2: bool = False,
    buffering: bool = False,
    websockets: bool = False,
    more: str = "",
) -> Iterator[Nginx]:
    """Run nginx on a port of the loopback interface.

    With `buffering`, nginx buffers bodies as it does by default. With `websockets`, the file has
    the lines for WebSockets. `more` is added to the end of the file.
    """
    program = find_nginx()
    folder.mkdir(mode=0o711)
    temporary = [f"{name}_temp_path {folder}/{name} 1;" for name in TEMPORARY]
    text = documented(folder, port, servers, certificate=certificate, http2=http2)
    if buffering:
        text = re.sub(r"proxy_(request_)?buffering off;|proxy_max_temp_file_size 0;", "", text)
    workers = 2
    if websockets:
        text, workers = add_websockets(text), 1
    (folder / "assay.conf").write_text(text + more)
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
    """Return whether nginx answers a plain HTTP request, to which it replies 400 on a TLS port."""
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
