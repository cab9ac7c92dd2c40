"""Failed reads of the source and the last mismatch of a file; reservations of probes."""

from alembic import op

revision = "0006"
down_revision = "0005"

STATEMENTS = (
    """
    ALTER TABLE files
        ADD COLUMN failed_reads integer NOT NULL DEFAULT 0,
        ADD COLUMN failed_reads_since timestamptz,
        ADD COLUMN mismatched_sha256 bytea,
        ADD CONSTRAINT files_failed_reads_have_start
            CHECK ((failed_reads = 0) = (failed_reads_since IS NULL)) NOT VALID
    """,
    # A probe of the store belongs to no file. It writes a scratch object into each bucket:
    # the one in incoming under `scratch_key`.
    """
    ALTER TABLE reservations
        ALTER COLUMN file_id DROP NOT NULL,
        ALTER COLUMN owner DROP NOT NULL,
        ADD COLUMN scratch_key text,
        ADD CONSTRAINT reservations_of_file_or_probe CHECK (num_nonnulls(file_id, scratch_key) = 1)
    """,
)


def upgrade() -> None:
    for statement in STATEMENTS:
        op.execute(statement)
