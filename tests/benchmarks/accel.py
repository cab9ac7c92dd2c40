"""Downloads whose bytes nginx reads from the store, by `X-Accel-Redirect`.

The reference for the speed is the same nginx in front of the store alone. The reference for the
memory of the API is its memory before.
"""

import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

import uvloop

from tests.benchmarks.downloading import READERS, read_slowly, upload
from tests.benchmarks.figures import Figure, Series, alternate, compare_times
from tests.benchmarks.ground import GIB, Ground, NotPossible, Site
from tests.benchmarks.hand import curl
from tests.benchmarks.large import MIB
from tests.e2e.nginx import Servers, running_nginx
from tests.support.processes import (
    read_cpu_seconds,
    read_peak_bytes,
    read_resident_bytes,
    reset_peak,
)
from tests.support.programs import search
from tests.support.servers import free_port

LEAST_RATIO = 0.97
MOST_API_MS = 5.0
MOST_GROWTH_MIB = 5
STORE_ALONE = """
server {{
    listen 127.0.0.1:{port};
    location / {{
        proxy_pass http://assay_store;
        proxy_http_version 1.1;
        proxy_set_header Host {store};
        proxy_set_header Connection "";
        proxy_buffer_size 64k;
        proxy_buffers 4 64k;
        proxy_max_temp_file_size 1024m;
    }}
}}
"""


def measure(ground: Ground) -> list[Figure]:
    if search("nginx") is None:
        raise NotPossible("The row `accel` needs `nginx` on the PATH.")
    with ground.new_site(reader=True) as site:
        secret = secrets.token_hex(16)
        deployment = site.deployment
        pid = site.start_api(
            more={
                "ASSAY_ACCEL_REDIRECT": "/vault/",
                "ASSAY_ACCEL_SECRET": secret,
                "ASSAY_S3_READER_ACCESS_KEY": deployment.s3_reader_access_key or "",
                "ASSAY_S3_READER_SECRET_KEY": deployment.s3_reader_secret_key or "",
            }
        )
        with behind_nginx(site, secret) as (through, alone):
            return [
                *measure_speed(site, through, alone, pid=pid),
                measure_memory(site, through, pid=pid),
            ]


@contextmanager
def behind_nginx(site: Site, secret: str) -> Iterator[tuple[str, str]]:
    """Run nginx. Yield its address for the API, and its address for the store alone."""
    port, other = free_port(), free_port()
    store = urlsplit(site.settings.s3_endpoint).netloc
    servers = Servers(
        api=urlsplit(site.url).netloc,
        store=store,
        bucket=site.settings.incoming_bucket,
        accel_secret=secret,
    )
    folder = Path(site.ground.folder / f"nginx-{port}")
    with running_nginx(folder, port, servers, more=STORE_ALONE.format(port=other, store=store)):
        yield f"http://127.0.0.1:{port}", f"http://127.0.0.1:{other}"


def measure_speed(site: Site, through: str, alone: str, *, pid: int) -> list[Figure]:
    size, rounds = site.ground.choose(GIB, 64 * MIB), site.ground.choose(9, 2)
    file = upload(site, size)
    signed = site.hand.sign("GET", file["minio_object_name"], bucket=site.settings.vault_bucket)
    spent: list[float] = []

    def download() -> float:
        before = read_cpu_seconds([pid])
        seconds = curl(f"{through}/files/{file['id']}", headers=site.headers)
        spent.append((read_cpu_seconds([pid]) - before) * 1000)
        return seconds

    direct = partial(curl, signed.replace(site.settings.s3_endpoint, alone))
    found = alternate({"assay": download, "direct": direct}, rounds=rounds)
    work = f"download of {size // MIB:,} MiB through nginx by X-Accel"
    cost = Series(tuple(spent[1:]))
    return [
        compare_times(
            work,
            "the same nginx in front of the store alone",
            found["assay"],
            found["direct"],
            least=LEAST_RATIO,
        ),
        Figure(
            work,
            "CPU time of the API",
            f"{cost.show()} ms",
            "",
            "",
            f"< {MOST_API_MS} ms",
            cost.median < MOST_API_MS,
        ),
    ]


def measure_memory(site: Site, through: str, *, pid: int) -> Figure:
    size, seconds = site.ground.choose(256 * MIB, 32 * MIB), site.ground.choose(45, 12)
    slow, other = upload(site, size), upload(site, 2 * MIB)
    curl(f"{through}/files/{slow['id']}", headers=site.headers)
    before = read_resident_bytes(pid)
    reset_peak(pid)
    behind = replace(site, address=through)
    uvloop.run(read_slowly(behind, slow, other, pid=pid, seconds=seconds))
    growth = (read_peak_bytes(pid) - before) / MIB
    return Figure(
        f"{READERS} slow downloads of {size // MIB} MiB through nginx by X-Accel",
        "the API's memory before",
        f"+ {growth:.1f} MiB at most",
        f"{before / MIB:.0f} MiB",
        "",
        f"< {MOST_GROWTH_MIB} MiB",
        growth < MOST_GROWTH_MIB,
    )
