"""What became of each file, and when: one row a transition, written by the transition's own statement."""

from alembic import op

revision = "0004"
down_revision = "0003"

STATEMENTS = (
    """
    CREATE TABLE file_history (
        xid xid8 NOT NULL,  -- of the transaction, or of the file's last row where that is higher
        sequence bigint GENERATED ALWAYS AS IDENTITY,
        file_id uuid NOT NULL,  -- no foreign key: it would lock the file's row once more at each transition
        owner text NOT NULL,
        state text NOT NULL,
        previous text,
        at timestamptz NOT NULL DEFAULT now(),
        by text NOT NULL,
        why text,
        CONSTRAINT file_history_pkey PRIMARY KEY (xid, sequence),
        CONSTRAINT file_history_state_known
            CHECK (state IN ('pending', 'verifying', 'ready', 'rejected', 'expired', 'deleted', 'damaged')),
        CONSTRAINT file_history_state_changes CHECK (previous IS DISTINCT FROM state),
        CONSTRAINT file_history_by_known CHECK (by IN ('client', 'store', 'worker', 'migration'))
    )
    """,
    "CREATE INDEX file_history_owner ON file_history (owner, xid, sequence)",
    "CREATE INDEX file_history_file ON file_history (file_id, sequence)",
    # The last row that was forgotten: who has not read as far can no longer be told of everything.
    """
    CREATE TABLE history_horizon (
        single boolean PRIMARY KEY DEFAULT true,
        xid xid8 NOT NULL,
        sequence bigint NOT NULL,
        CONSTRAINT history_horizon_single CHECK (single)
    )
    """,
    "INSERT INTO history_horizon (xid, sequence) VALUES ('0', 0)",
    """
    INSERT INTO file_history (xid, file_id, owner, state, at, by, why)
    SELECT pg_current_xact_id(), id, owner, state, now(), 'migration', 'as it was when the history began' FROM files ORDER BY id
    """,
    # What the statements that change `state` tell the history's row, which has no other way to know it before PostgreSQL 18. Last, for
    # its lock keeps everybody from the files until the commit.
    "ALTER TABLE files ADD COLUMN previous text, ADD COLUMN history_xid xid8",
)


def upgrade() -> None:
    for statement in STATEMENTS:
        op.execute(statement)
