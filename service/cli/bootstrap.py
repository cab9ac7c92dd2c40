"""`assay bootstrap`, the only command that reads the credentials of administrators."""

import asyncio
import os
from collections.abc import Iterable, Mapping
from typing import Annotated, Final

from cyclopts import Parameter

from service.cli.standard_streams import print_result
from service.operations.bootstrap import bootstrap as make_ready
from service.operations.bootstrap import describe
from service.operations.database_role import prepare_database
from service.operations.steps import Step
from service.settings import Deployment, read_settings

UNSEEN: Final = {
    "ASSAY_S3_ENDPOINT": "http://minio:9000",
    "ASSAY_S3_ROOT_ACCESS_KEY": "unseen-root",
    "ASSAY_S3_ROOT_SECRET_KEY": "unseen",
    "ASSAY_S3_ACCESS_KEY": "unseen-service",
    "ASSAY_S3_SECRET_KEY": "unseen",
    "ASSAY_S3_SIGNER_ACCESS_KEY": "unseen-signer",
    "ASSAY_S3_SIGNER_SECRET_KEY": "unseen",
}
"""Placeholders for settings that `--print` does not need.

It prints the name of a variable in place of each secret.
"""


def bootstrap(*, print_only: Annotated[bool, Parameter(name="--print")] = False) -> None:
    """Create both buckets, the identities, their policies, the event rule and the lifecycle rule,
    or correct them.

    With ASSAY_DATABASE_ADMIN_URL, do the same for the role and the database of ASSAY_DATABASE_URL.

    Parameters
    ----------
    print_only
        Change nothing. Print the policies, `mc` commands and `MINIO_*` lines for an administrator
        who does not share root's keys.
    """
    environ = fill_unseen(os.environ) if print_only else os.environ
    deployment = read_settings(environ, Deployment)
    if print_only:
        print(describe(deployment))
        return
    if deployment.database_admin_url and deployment.database_url:
        report(
            asyncio.run(prepare_database(deployment.database_admin_url, deployment.database_url))
        )
    report(make_ready(deployment))


def report(steps: Iterable[Step]) -> None:
    for step in steps:
        print_result(f"{step.outcome:<14}{step.what}")


def fill_unseen(environ: Mapping[str, str]) -> dict[str, str]:
    missing = {
        name: value
        for name, value in UNSEEN.items()
        if name not in environ and f"{name}_FILE" not in environ
    }
    return {**missing, **environ}
