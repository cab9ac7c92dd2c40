"""The first responses that several threads of the client decode at the same time."""

import subprocess
import sys

PROCESSES = 25
PROGRAM = """
import sys, threading

sys.setswitchinterval(1e-6)
from assay.api import Api
from assay.files import File
from assay.transport import Answer, Transport

BODY = b'''{"id": "a81bc81b-dead-4e5d-abff-90865d1e13b1", "filename": "a", "size": 1,
    "content_type": "image/png", "state": "ready", "created_at": "2026-11-30T00:00:00Z",
    "expires_at": "2026-11-30T00:00:00Z", "rejection": null}'''
api = Api(Transport(connections=1, timeout=1), "http://127.0.0.1", None, retry_seconds=1)
barrier = threading.Barrier(4)


def decode():
    barrier.wait()
    assert api.decode(Answer(200, {}, BODY), File).filename == "a"


threads = [threading.Thread(target=decode) for _ in range(4)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
"""


def test_threads_may_decode_their_first_responses_at_once() -> None:
    """msgspec 0.22 crashes if two threads prepare the decoding of one type at the same time.

    A process can show that only once, and one in nine did.
    """
    for _ in range(PROCESSES):
        ended = subprocess.run(
            [sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=False
        )
        assert (ended.returncode, ended.stderr) == (0, "")
