"""Indexes for claims: due files of which a failed read was counted have one of their own."""

from alembic import op

revision = "0008"
down_revision = "0007"

STATEMENTS = (
    "DROP INDEX files_due_small, files_due_large",
    """
    CREATE INDEX files_due_small ON files (due_at)
        WHERE state IN ('pending', 'verifying') AND failed_reads = 0 AND size <= 1073741824
    """,
    """
    CREATE INDEX files_due_large ON files (due_at)
        WHERE state IN ('pending', 'verifying') AND failed_reads = 0 AND size > 1073741824
    """,
    """
    CREATE INDEX files_due_unreadable ON files (due_at)
        WHERE state IN ('pending', 'verifying') AND failed_reads > 0
    """,
)


def upgrade() -> None:
    for statement in STATEMENTS:
        op.execute(statement)
