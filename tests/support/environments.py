"""Environments for processes of the service."""

from typing import Final

from service.settings import Settings

NEW_TOKEN: Final = "new-" + "n" * 28
OLD_TOKEN: Final = "old-" + "o" * 28

COMPLETE = {
    "ASSAY_DATABASE_URL": "postgresql://u:p@db/assay",
    "ASSAY_S3_ENDPOINT": "http://minio:9000",
    "ASSAY_S3_ACCESS_KEY": "service",
    "ASSAY_S3_SECRET_KEY": "secret-1",
    "ASSAY_S3_SIGNER_ACCESS_KEY": "signer",
    "ASSAY_S3_SIGNER_SECRET_KEY": "secret-2",
    "ASSAY_WEBHOOK_TOKEN": f"{NEW_TOKEN}, {OLD_TOKEN}",
}
"""The required variables, with values that name no running server."""


def make_environment(settings: Settings) -> dict[str, str]:
    """Return the settings that differ from the defaults, as `ASSAY_*` variables.

    All other settings keep their defaults, so that benchmarks measure these.
    """
    names = (
        "database_url",
        "s3_endpoint",
        "s3_access_key",
        "s3_secret_key",
        "s3_signer_access_key",
        "s3_signer_secret_key",
    )
    environ = {
        f"ASSAY_{name.upper()}": str(getattr(settings, name))
        for name in (*names, "incoming_bucket", "vault_bucket")
    }
    environ["ASSAY_SWEEP_DELAY"] = "0"  # the deletions are part of what is measured
    return environ | {"ASSAY_WEBHOOK_TOKEN": ",".join(settings.webhook_token)}
