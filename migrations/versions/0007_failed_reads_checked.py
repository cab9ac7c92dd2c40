"""Validate the constraint that 0006 added to `files`, while the table is read and changed."""

from alembic import op

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    op.execute("ALTER TABLE files VALIDATE CONSTRAINT files_failed_reads_have_start")
