"""Streamed uploads through the API, compared with a naive route in the same process.

A large one is also compared with a PUT straight to the store.
"""

import json
import os
from functools import partial
from pathlib import Path

import httpx

from tests.benchmarks.figures import Figure, Series, alternate, compare_rates, compare_times
from tests.benchmarks.ground import GIB, Ground, Site
from tests.benchmarks.hand import check_answer, curl, run_curl
from tests.benchmarks.large import MIB, hash_file, make_file
from tests.benchmarks.load import CLIENTS, drive, make_request, send
from tests.support.stores import root_sdk

BODY = os.urandom(64 * 1024)
BOUNDARY = "benchmark-boundary"


def measure(ground: Ground) -> list[Figure]:
    count, rounds = ground.choose(800, 100), ground.choose(9, 2)
    with ground.new_site() as site:
        url, server = site.start_neighbour("naive")
        costs = site.measure_costs(API=server)
        headers = site.headers | {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}"}
        assay = make_request("POST", f"{url}/files/upload", headers=headers, body=make_form())
        naive = make_request("POST", f"{url}/naive/upload", headers=headers, body=make_form())
        found = alternate(
            {
                "assay": costs.measure(
                    "assay",
                    partial(
                        drive, [send(assay, expected=201, holds=b'"state":"ready"')] * count, [url]
                    ),
                    jobs=count,
                ),
                "naive": costs.measure(
                    "naive",
                    partial(
                        drive, [send(naive, expected=201, holds=b'"created_at":')] * count, [url]
                    ),
                    jobs=count,
                ),
            },
            rounds=rounds,
        )
    work = f"64 KiB `POST /files/upload`, {CLIENTS} clients"
    against = "a naive route (whole form, hash, put_object, insert) in the same process"
    return [
        compare_rates(
            work,
            against,
            found["assay"],
            found["naive"],
            unit="/s",
            least=1.3,
            costs=(costs.show("assay"), costs.show("naive")),
        )
    ]


def make_form() -> bytes:
    about = (
        'Content-Disposition: form-data; name="file"; filename="small.bin"\r\n'
        "Content-Type: application/octet-stream"
    )
    return f"--{BOUNDARY}\r\n{about}\r\n\r\n".encode() + BODY + f"\r\n--{BOUNDARY}--\r\n".encode()


def measure_large(ground: Ground) -> list[Figure]:
    """Compare uploads of 1 GiB by the same form, and by a PUT of the file to the store."""
    size, rounds = ground.choose(GIB, 64 * MIB), ground.choose(5, 1)
    body = make_file(ground.folder / "streamed.bin", size)
    digest = hash_file(body)
    found: dict[str, list[float]] = {"assay": [], "naive": [], "direct": []}
    with ground.new_site() as site:
        url, _ = site.start_neighbour("naive")
        sides = {
            "assay": partial(send_form, site, f"{url}/files/upload", body, digest=digest),
            "naive": partial(send_form, site, f"{url}/naive/spooled", body, digest=None),
            "direct": partial(put_directly, site, body),
        }
        for number in range(rounds + 1):
            for name in sides if number % 2 else reversed(list(sides)):
                os.sync()  # flush what the other side has written
                value = sides[name]()
                empty_vault(site)
                found[name] += [value] if number else []
    body.unlink()
    series = {name: Series(tuple(values)) for name, values in found.items()}
    work = f"{size // MIB:,} MiB `POST /files/upload`"
    naive = "a naive route (form spooled to the disk, hash, put_object, insert) in the same process"
    return [
        compare_times(work, naive, series["assay"], series["naive"], least=1.6),
        compare_times(
            work,
            "a PUT of the same file straight to the store",
            series["assay"],
            series["direct"],
            least=round(1 / 1.4, 2),
        ),
    ]


def send_form(site: Site, url: str, body: Path, *, digest: str | None) -> float:
    """Send the file in a form, and return the seconds. `digest` is that of the response."""
    fields = [f'header = "{name}: {value}"' for name, value in site.headers.items()]
    form = f'form = "file=@{body};type=application/octet-stream"'
    text, status, seconds = run_curl([f'url = "{url}"', *fields, form], "-")
    assert status == 201, text
    assert digest is None or json.loads(text)["hash"] == digest
    return seconds


def put_directly(site: Site, body: Path) -> float:
    return curl(site.hand.sign("PUT", "direct", bucket=site.settings.vault_bucket), body=body)


def empty_vault(site: Site) -> None:
    """Delete all objects, so that the disk does not fill up."""
    bucket, sdk = site.settings.vault_bucket, root_sdk(site.deployment)
    for found in sdk.list_objects(bucket):
        url = site.hand.sign("DELETE", str(found.object_name), bucket=bucket)
        check_answer(httpx.delete(url, timeout=90), 204)
