"""An index of the files that are not ready, for lists of one state.

The index is built while the service runs. No statement waits for it. The build itself waits for
older transactions, and takes some seconds for each million rows.
"""

from alembic import op

revision = "0003"
down_revision = "0002"

STATEMENTS = (
    # An interrupted build leaves an index that is not valid.
    "DROP INDEX CONCURRENTLY IF EXISTS files_owner_state",
    """
    CREATE INDEX CONCURRENTLY files_owner_state ON files (owner, state, id) WHERE state <> 'ready'
    """,
)


def upgrade() -> None:
    with op.get_context().autocommit_block():
        for statement in STATEMENTS:
            op.execute(statement)
