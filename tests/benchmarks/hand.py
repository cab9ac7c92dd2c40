"""What somebody with root's key does by hand: the other side of most figures. URLs by our own signer, big bodies by curl."""

import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from service.object_store.presign import Signer
from tests.benchmarks.load import make_request

LIVES_SECONDS = 3600
CURL_SECONDS = 600


@dataclass(frozen=True)
class Hand:
    """Signs as root, for the bucket that no rule watches."""

    signer: Signer
    bucket: str

    def sign(self, method: str, key: str, *, bucket: str | None = None, headers: Mapping[str, str] | None = None) -> str:
        return self.signer.presign(
            method, bucket or self.bucket, key=key, issued_at=datetime.now(UTC), expires_in_seconds=LIVES_SECONDS, headers=headers
        )

    def put(self, key: str, body: bytes) -> bytes:
        """A request's bytes, as the others."""
        return make_request("PUT", self.sign("PUT", key), body=body)

    def get(self, key: str) -> bytes:
        return make_request("GET", self.sign("GET", key))

    def head(self, key: str) -> bytes:
        return make_request("HEAD", self.sign("HEAD", key))

    def delete(self, key: str) -> bytes:
        return make_request("DELETE", self.sign("DELETE", key))

    def copy(self, key: str, target: str) -> bytes:
        """A new object, as the service copies: with a type, metadata and tags of its own."""
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


def curl(
    url: str,
    *,
    method: str | None = None,
    headers: Mapping[str, str] | None = None,
    body: Path | None = None,
    target: Path = Path("/dev/null"),
) -> float:
    """Seconds of one request, by curl's own clock. The URL goes in by standard input: a list of processes shows arguments."""
    config = [f'url = "{url}"', *(f'header = "{name}: {value}"' for name, value in (headers or {}).items())]
    if body is not None:
        config.append(f'upload-file = "{body}"')
    if method is not None:
        config.append(f'request = "{method}"')
    command = ["curl", "-sS", "--fail-with-body", "-K", "-", "-o", str(target), "-w", "%{time_total}"]
    done = subprocess.run(command, input="\n".join(config), capture_output=True, text=True, timeout=CURL_SECONDS, check=False)
    assert done.returncode == 0, done.stderr
    return float(done.stdout)
