"""Requests that an operator with root's key would send by hand, which most references consist of.

The URLs come from Assay's signer, and curl sends large bodies.
"""

import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import httpx

from service.object_store.presign import Signer
from tests.benchmarks.load import make_request

LIVES_SECONDS = 3600
CURL_SECONDS = 600
DROPPED = "/dev/null"


@dataclass(frozen=True)
class Hand:
    """A signer with root's credentials, and a bucket that has no event rule."""

    signer: Signer
    bucket: str

    def sign(
        self,
        method: str,
        key: str,
        *,
        bucket: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> str:
        return self.signer.presign(
            method,
            bucket or self.bucket,
            key=key,
            issued_at=datetime.now(UTC),
            expires_in_seconds=LIVES_SECONDS,
            headers=headers,
        )

    def put(self, key: str, body: bytes) -> bytes:
        return make_request("PUT", self.sign("PUT", key), body=body)

    def get(self, key: str) -> bytes:
        return make_request("GET", self.sign("GET", key))

    def head(self, key: str) -> bytes:
        return make_request("HEAD", self.sign("HEAD", key))

    def delete(self, key: str) -> bytes:
        return make_request("DELETE", self.sign("DELETE", key))

    def copy(self, key: str, target: str) -> bytes:
        """Return the bytes of a copy request like the service's, with type, metadata and tags."""
        url, headers = self.sign_copy(key, target)
        return make_request("PUT", url, headers=headers)

    def sign_copy(self, key: str, target: str) -> tuple[str, dict[str, str]]:
        headers = {
            "x-amz-copy-source": f"/{self.bucket}/{key}",
            "x-amz-metadata-directive": "REPLACE",
            "x-amz-tagging-directive": "REPLACE",
            "x-amz-tagging": f"assay-file-id={target}",
            "x-amz-meta-assay-file-id": target,
            "x-amz-meta-assay-owner": "benchmark",
            "x-amz-meta-assay-filename": "benchmark.bin",
            "Content-Type": "application/octet-stream",
        }
        return self.sign("PUT", target, headers=headers), headers


def check_answer(answer: httpx.Response, expected: int) -> httpx.Response:
    """Return the response. Raises AssertionError with its text if it has another status."""
    assert answer.status_code == expected, (
        f"{answer.status_code} instead of {expected}: {answer.text[:500]}"
    )
    return answer


def curl(
    url: str,
    *,
    method: str | None = None,
    headers: Mapping[str, str] | None = None,
    body: Path | None = None,
    target: Path | None = None,
    expected: int = 200,
) -> float:
    """Send one request and return its seconds by curl's own clock.

    Raises AssertionError with the response's text if the response has another status.

    The URL is passed on standard input, because a list of processes shows arguments. The body of a
    download without `target` is discarded as it arrives, so that only the transfer is measured. The
    request is then sent again to show the text of an unexpected response.
    """
    config = [
        f'url = "{url}"',
        *(f'header = "{name}: {value}"' for name, value in (headers or {}).items()),
    ]
    if body is not None:
        config.append(f'upload-file = "{body}"')
    if method is not None:
        config.append(f'request = "{method}"')
    output = str(target or (DROPPED if body is None else "-"))
    text, status, seconds = run_curl(config, output)
    if status != expected:
        shown = (
            target.read_text(errors="replace")
            if target
            else run_curl(config, "-")[0]
            if output == DROPPED
            else text
        )
        raise AssertionError(f"{status} instead of {expected}: {shown[:500]}")
    return seconds


def run_curl(config: Sequence[str], output: str) -> tuple[str, int, float]:
    """Return curl's standard output, the status of the response and the seconds.

    Raises AssertionError if there was no response.
    """
    command = ["curl", "-sS", "-K", "-", "-o", output, "-w", "\n%{http_code} %{time_total}"]
    done = subprocess.run(
        command,
        input="\n".join(config),
        capture_output=True,
        text=True,
        errors="replace",
        timeout=CURL_SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    text, _, measured = done.stdout.rpartition("\n")
    status, seconds = measured.split()
    return text, int(status), float(seconds)
