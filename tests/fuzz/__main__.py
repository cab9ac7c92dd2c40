"""The fuzzing command: `python -m tests.fuzz http --minutes 20 --seed 1`.

`http` sends malformed requests, `api` sends requests that the OpenAPI document permits and others
like them, and `command` runs the commands for files.

It starts `assay dev` on a new folder, and stops it at the end. The exit status is 0 if there are no
findings. A finding names its case, and `--case N` repeats that case of the same seed. (A command is
repeated with the other commands of its round. `api` has no numbers of cases: Schemathesis prints
each request that failed as a command of curl.)
"""

import argparse
import itertools
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from service.cli.dev_folder import OWNER
from service.settings import BucketName, DatabaseUrl, Secret, Settings, Token, Url
from tests.e2e.commands import read_announcement, started, stop
from tests.e2e.hostile_http.site import open_site
from tests.fuzz.api import ApiTally, fuzz_api
from tests.fuzz.command import EXAMPLES, CommandFuzzer
from tests.fuzz.command import Tally as CommandTally
from tests.fuzz.http import Fuzzer, Tally
from tests.support.servers import free_port, reachable_folder


def main() -> int:
    """Run the fuzzer and return 0 if there are no findings, or else 1."""
    options = parse_options()
    seconds = options.minutes * 60
    with reachable_folder() as folder, running_server(folder) as (process, line):
        settings = describe_settings(line)
        with open_site(line["api"], settings, owner=OWNER, key=line["key"]) as site:
            tally: Tally | CommandTally | ApiTally
            if options.what == "api":
                tally = fuzz_api(site, folder, seed=options.seed, seconds=seconds)
            elif options.what == "command":
                # A case meets what the earlier cases of its round have left.
                rounds = choose(None if options.case is None else options.case // EXAMPLES)
                fuzzer = CommandFuzzer(site, options.seed, folder)
                tally = fuzzer.run(rounds, seconds=seconds)
            else:
                http = Fuzzer(site, options.seed, is_alive=lambda: process.poll() is None)
                tally = http.run(choose(options.case), seconds=seconds)
        status = stop(process)
    for finding in tally.findings:
        print(finding)
    print(f"seed {options.seed}: {tally.describe()}")
    print(f"the server ended with {status}")
    return 1 if tally.findings or status not in (0, 130) else 0


def choose(number: int | None) -> Iterator[int]:
    """Return the numbers of all cases or rounds, or only the given one."""
    return itertools.count() if number is None else iter([number])


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("what", choices=["http", "api", "command"], help="the interface to test")
    parser.add_argument(
        "--minutes", type=float, default=1.0, help="the duration of the run (default: 1)"
    )
    parser.add_argument("--seed", type=int, default=0, help="the seed of the cases (default: 0)")
    parser.add_argument("--case", type=int, help="the number of a single case to run")
    return parser.parse_args()


@contextmanager
def running_server(folder: Path) -> Iterator[tuple[Any, dict[str, Any]]]:
    """Run `assay dev` and yield its process and the line that it prints when it is ready."""
    log = folder / "log"
    arguments = ["dev", "--data", str(folder / "data"), "--port", str(free_port()), "--json"]
    with started(arguments, log) as process:
        yield process, read_announcement(process, log)


def describe_settings(line: dict[str, Any]) -> Settings:
    """Return settings for the database and the buckets of `assay dev`, with root's keys."""
    store = line["s3"]
    return Settings(
        database_url=DatabaseUrl(Secret(line["database"])),
        s3_endpoint=Url(store["endpoint"]),
        s3_access_key=Secret(store["access_key"]),
        s3_secret_key=Secret(store["secret_key"]),
        s3_signer_access_key=Secret(store["access_key"]),
        s3_signer_secret_key=Secret(store["secret_key"]),
        incoming_bucket=BucketName(line["incoming"]),
        vault_bucket=BucketName(line["vault"]),
        webhook_token=(Token(Secret("unused")),),
    )


if __name__ == "__main__":
    sys.exit(main())
