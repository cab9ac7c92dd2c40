"""Streamed uploads of 64 KiB through the API, compared with a naive route in the same process."""

import os
from functools import partial

from tests.benchmarks.figures import Figure, alternate, compare_rates
from tests.benchmarks.ground import Ground
from tests.benchmarks.load import CLIENTS, drive, make_request, send

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
