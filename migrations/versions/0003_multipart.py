"""Multipart uploads: how a file is cut, and the store's upload that its parts belong to."""

from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    op.execute("ALTER TABLE files ADD COLUMN part_size bigint, ADD COLUMN upload_id text")
    # NOT VALID: the lock keeps everybody from the files, and is over before 0005 looks at the rows that are there.
    op.execute(
        """
        ALTER TABLE files
        ADD CONSTRAINT files_parts_within_limits
            CHECK (part_size BETWEEN 5242880 AND 5368709120 AND size <= part_size * 10000) NOT VALID,
        ADD CONSTRAINT files_upload_has_parts CHECK (upload_id IS NULL OR part_size IS NOT NULL AND incoming_key IS NOT NULL) NOT VALID
        """
    )
