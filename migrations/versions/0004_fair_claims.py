"""Claims that are fair to every owner: the kind of work of a row, and its indexes.

Adding the column rewrites the table `files` under an exclusive lock: about 25 s for each million
rows.
"""

from alembic import op

revision = "0004"
down_revision = "0003"

STATEMENTS = (
    # The kind of work that a worker has with an unfinished file, or NULL if the file is final.
    """
    ALTER TABLE files ADD COLUMN work text GENERATED ALWAYS AS (
        CASE WHEN state NOT IN ('pending', 'verifying') THEN NULL
             WHEN failed_reads > 0 THEN 'unreadable'
             WHEN state = 'pending' THEN 'look'
             WHEN size > 1073741824 THEN 'large'
             ELSE 'small' END
    ) STORED
    """,
    # These indexes serve claims. The first gives the next time at which there is work of a kind,
    # and the second the owners that have such work, and the first due file of each. `lease_until`
    # is in no index, so that the extension of a lease is a heap-only-tuple update.
    "CREATE INDEX files_due ON files (work, due_at) WHERE work IS NOT NULL",
    "CREATE INDEX files_due_owner ON files (work, owner, due_at) WHERE work IS NOT NULL",
    "DROP INDEX files_due_small",
    "DROP INDEX files_due_large",
    "DROP INDEX files_due_unreadable",
)


def upgrade() -> None:
    for statement in STATEMENTS:
        op.execute(statement)
